"""Random numbers that belong to an image, whatever batch it is in.

An attack's outcome for an image then depends neither on the batch size nor on which
images were broken before, and an evaluation that was interrupted goes on exactly.
"""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from advrush_tf.attacks.geometry import Norm, unit

_BITS = 2**31 - 1


def seeds_of(seed: int, indices: tf.Tensor) -> tf.Tensor:
    """One seed an image.

    Args:
        seed: of the whole attack, at least 0.
        indices: (batch,), the image's place in its data set.

    Returns:
        (batch, 2), int32.
    """
    indices = tf.cast(indices, tf.int32)
    return tf.stack([tf.fill(tf.shape(indices), seed % _BITS), indices], -1)


def uniform(seeds: tf.Tensor, shape: Sequence[int], numbers: tf.Tensor) -> tf.Tensor:
    """Uniform numbers in [0, 1), drawn for each image by itself.

    Args:
        seeds: (batch, 2), of `seeds_of`.
        shape: of one image's numbers.
        numbers: (batch, n), int32; with each of them folded in, another draw.

    Returns:
        (batch, *shape), float32.
    """
    return _draw(tf.random.stateless_uniform, seeds, shape, numbers)


def normal(seeds: tf.Tensor, shape: Sequence[int], numbers: tf.Tensor) -> tf.Tensor:
    """As `uniform`, from N(0, 1)."""
    return _draw(tf.random.stateless_normal, seeds, shape, numbers)


def uniform_in_ball(
    norm: Norm,
    epsilon: float,
    seeds: tf.Tensor,
    shape: tuple[int, ...],
    run: tf.Tensor,
) -> tf.Tensor:
    """A uniform point of the ball around 0 for each image.

    Args:
        norm, epsilon: of the ball.
        seeds: (batch, 2), of `seeds_of`.
        shape: (height, width, channels).
        run: int32, folded in.

    Returns:
        (batch, *shape), float32.
    """
    numbers = tf.fill([seeds.shape[0], 1], run)
    if norm is Norm.LINF:
        return epsilon * (2 * uniform(seeds, shape, numbers) - 1)
    direction = unit(norm, normal(seeds, shape, numbers))
    # With one number more folded in, independent of the direction.
    share = uniform(seeds, (1, 1, 1), tf.pad(numbers, [[0, 0], [0, 1]]))
    return epsilon * share ** (1 / np.prod(shape)) * direction


def _draw(
    generator: Callable, seeds: tf.Tensor, shape: Sequence[int], numbers: tf.Tensor
) -> tf.Tensor:
    def of_one(parts):
        seed, folded = parts
        for number in tf.unstack(folded):
            seed = tf.random.fold_in(seed, number)
        return generator(shape, seed)

    spec = tf.TensorSpec(shape, tf.float32)
    return tf.map_fn(of_one, (seeds, numbers), fn_output_signature=spec)
