"""The loss near images: over a plane through each, and along an attack's direction.

Images are not clipped to [0, 1]: the subject is the function, not an attack.
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from advrush_tf.attacks.base import BatchedClassifier, LogitsFn
from advrush_tf.attacks.geometry import Norm, as_number, steepest
from advrush_tf.attacks.losses import log_odds
from advrush_tf.attacks.pgd import SignAscent, Start, usual_step_size
from advrush_tf.attacks.randomness import seeds_of, uniform
from advrush_tf.inputs import check_logits, image_array, label_array
from advrush_tf.losses import cross_entropy
from advrush_tf.search.penalty import input_gradient

_ATTACK_STEPS = 20
_FIRST, _LAST = -1, 2  # of a cut, in steps from the clean to the adversarial image

# (the model, images, labels, their indices in the data set) to directions
# (batch, k, ...).
_DirectionsFn = Callable[[LogitsFn, tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]
_Progress = Callable[[int], object]


@dataclasses.dataclass(frozen=True, eq=False)
class Surface:
    """The mean loss of images over a plane through each of them.

    Attributes:
        first: (n,), steps along the sign of each image's gradient, in [0, 1] units.
        second: (n,), steps along a random direction of signs, in the same units.
        losses: (n, n), nats; losses[i, j] is that of first[i] and second[j].
    """

    first: np.ndarray
    second: np.ndarray
    losses: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Cut:
    """The loss of each image along its own attack's direction.

    Attributes:
        steps: (m,), in multiples of the adversarial perturbation: 0 is the clean image
            and 1 the adversarial one, at most epsilon away.
        losses: (images, m), nats.
    """

    steps: np.ndarray
    losses: np.ndarray


def loss_surface(
    model: Any,
    x: np.ndarray,
    y: np.ndarray,
    radius: float,
    points: int = 25,
    batch_size: int = 128,
    seed: int = 0,
    progress: _Progress = lambda images: None,
) -> Surface:
    """The mean cross-entropy on the planes x + a * sign(gradient) + b * r.

    Each image has its own gradient, in inference mode, and its own r, of random signs:
    both axes are L-infinity distances. Where a gradient is zero, so is its sign, and
    the loss is constant along the first axis.

    Args:
        model: a Keras classifier or a function of TensorFlow operations: images in
            [0, 1] to logits.
        x: (images, height, width, channels), floats in [0, 1].
        y: labels, see `advrush_tf.inputs.as_labels`.
        radius: largest |a| and |b|, in [0, 1] units; a text such as "8/255" is
            understood.
        points: values of a and of b, an odd number, so that 0 is one of them.
        batch_size: images at a time, at most; no value depends on it but by rounding.
        seed: of the random signs, at least 0.
        progress: receives 1 after each image.

    Warns of gradients that have NaN or infinite entries, which count as 0.

    Raises:
        ValueError: there are no images or not in [0, 1], labels or a number are out of
            range, or the model does not give logits.

    Source: the figures of Mok et al., AdvRush, ICCV 2021.
    """
    radius = as_number(radius)
    if not 0 < radius < float("inf"):
        raise ValueError(f"radius must be positive, not {radius}")
    if points < 3 or points % 2 == 0:
        raise ValueError(f"points must be odd and 3 or more, not {points}")

    def directions(logits_fn, images, labels, indices):
        gradient = input_gradient(logits_fn, images, labels)
        sign = steepest(Norm.LINF, gradient)
        return tf.stack([sign, _random_signs(seed, indices, images.shape[1:])], 1)

    half = points // 2
    axis = radius * np.arange(-half, half + 1) / half
    plane = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    total = np.zeros(len(plane))
    for losses in _losses_of_images(model, directions, plane, x, y, batch_size):
        total += losses
        progress(1)
    return Surface(axis, axis, (total / len(x)).reshape(points, points))


def loss_cut(
    model: Any,
    x: np.ndarray,
    y: np.ndarray,
    epsilon: float,
    points: int = 31,
    batch_size: int = 128,
    seed: int = 0,
    progress: _Progress = lambda images: None,
) -> Cut:
    """The cross-entropy of each image on the line through its adversarial image.

    The attack is PGD-20 on the cross-entropy (by its log-odds, see `attacks.losses`),
    with steps of epsilon / 8 from a random start. The line reaches from -1 to 2 times
    the adversarial perturbation.

    Args:
        epsilon: radius of the attack's L-infinity ball, in [0, 1] units, or a text.
        points: on the line, one more than a multiple of 3, so that the clean and the
            adversarial image are among them.
        seed: of the attack's random starts, at least 0.

    Other arguments, warnings and errors are those of `loss_surface`.

    Source: of the attack, Madry et al., arXiv 1706.06083.
    """
    if points < 4 or points % 3 != 1:
        raise ValueError(f"points must be 4, 7, 10 or so on, not {points}")
    step_size = usual_step_size(epsilon, _ATTACK_STEPS)
    attack = SignAscent(epsilon, step_size, _ATTACK_STEPS, Start.UNIFORM)

    def directions(logits_fn, images, labels, indices):
        # Each image has its seed, whatever batch it is in.
        noise = tf.map_fn(
            lambda pair: attack.noise(*pair),
            (images, seeds_of(seed, indices)),
            fn_output_signature=images.dtype,
        )
        adversarial = attack.ascend(
            lambda perturbed: log_odds(logits_fn(perturbed), labels),
            images,
            images + noise,
        )
        return (adversarial - images)[:, tf.newaxis]

    # Whole numbers divided last: 0 and 1 are exact.
    unit = (points - 1) // (_LAST - _FIRST)
    steps = np.arange(_FIRST * unit, _LAST * unit + 1) / unit
    rows = []
    for losses in _losses_of_images(
        model, directions, steps[:, np.newaxis], x, y, batch_size
    ):
        rows.append(losses)
        progress(1)
    return Cut(steps, np.stack(rows))


def _random_signs(seed: int, indices: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
    no_numbers = tf.zeros((indices.shape[0], 0), tf.int32)
    drawn = uniform(seeds_of(seed, indices), shape, no_numbers)
    return tf.where(drawn < 0.5, -1.0, 1.0)


def _losses_of_images(
    model: Any,
    directions_fn: _DirectionsFn,
    offsets: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    batch_size: int,
) -> Iterator[np.ndarray]:
    """Each image's losses, float64 (offsets,), at x + offsets @ its directions.

    Args:
        offsets: (offsets, k), lengths along the k directions.
    """
    x = image_array(x).astype(np.float32)
    # As few batches as possible, then as equal as possible.
    batches = -(-len(offsets) // batch_size)
    classifier = BatchedClassifier(model, x.shape[1:], -(-len(offsets) // batches))
    y = label_array(y, len(x), classifier.num_classes)
    check_logits(classifier.predict(x[:batch_size]))
    directions_fn = functools.partial(directions_fn, classifier.followed_logits)
    for image, label, directions in _with_directions(directions_fn, x, y, batch_size):
        losses = []
        for some in np.array_split(offsets, batches):
            perturbed = image + np.tensordot(some.astype(np.float32), directions, 1)
            labels = tf.fill(len(some), label)
            # In float32 losses below 1e-7 would be 0.
            logits = classifier.predict(perturbed).astype(np.float64)
            losses.append(cross_entropy(labels, logits))
        yield np.concatenate(losses)
    if classifier.bad_gradients:
        warnings.warn(
            "the model's gradient has NaN or infinite entries, which count as 0: the "
            "loss may rise more in other directions than in those that are shown",
            stacklevel=3,
        )


def _with_directions(
    directions_fn: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor],
    x: np.ndarray,
    y: np.ndarray,
    batch_size: int,
) -> Iterator[tuple[np.ndarray, int, np.ndarray]]:
    """Each image, its label and its directions (k, height, width, channels)."""
    compiled = tf.function(directions_fn, autograph=False)
    batch_size = min(batch_size, len(x))
    for first in range(0, len(x), batch_size):
        # The last batch is filled up: there is one shape, compiled once.
        rows = np.minimum(np.arange(first, first + batch_size), len(x) - 1)
        directions = compiled(*map(tf.constant, (x[rows], y[rows], rows))).numpy()
        # Ends with the last image, before what fills up its batch.
        yield from zip(x[first:], y[first:], directions, strict=False)
