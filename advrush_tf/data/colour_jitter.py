"""Random brightness, contrast, saturation and hue, as in DARTS' ImageNet training."""

from typing import NamedTuple

import tensorflow as tf

# Factors lie within 1 +- 0.4, the hue turns by up to a fifth of the circle each way.
BRIGHTNESS = CONTRAST = SATURATION = 0.4
HUE = 0.2
_RANGES = (BRIGHTNESS, CONTRAST, SATURATION, HUE)

# Shares of red, green and blue in the luma (ITU-R BT.601).
_LUMA = (0.299, 0.587, 0.114)


class Jitter(NamedTuple):
    """What `jittered` does to each of some images.

    Attributes:
        amounts: float32 (B, 4): brightness, contrast, saturation and hue, each in
            plus or minus its largest.
        order: int32 (B, 4): a permutation of 0 to 3, in which they are changed.
    """

    amounts: tf.Tensor
    order: tf.Tensor


def draw_jitter(seed: tf.Tensor, batch_size: int) -> Jitter:
    """Draws how the colours of each image change.

    Args:
        seed: Integer seed (2,).
        batch_size: Number of images.
    """
    uniform = tf.random.stateless_uniform([2, batch_size, len(_RANGES)], seed)
    return Jitter((2 * uniform[0] - 1) * _RANGES, tf.argsort(uniform[1]))


def jittered(image: tf.Tensor, jitter: Jitter) -> tf.Tensor:
    """Changes the colours of one image, as drawn.

    Args:
        image: float32 (H, W, 3) in [0, 1].
        jitter: Of this image: (4,) each.

    Returns:
        float32 (H, W, 3) in [0, 1].

    Source: torchvision's ColorJitter, without its rounding to 8 bits in between.
    """
    changes = [
        lambda x, amount: _blended(x, 0.0, amount),
        lambda x, amount: _blended(x, tf.reduce_mean(_luma(x)), amount),
        lambda x, amount: _blended(x, _luma(x), amount),
        tf.image.adjust_hue,
    ]
    for place in range(len(changes)):
        which = jitter.order[place]
        image = tf.switch_case(
            which,
            [
                lambda change=change, x=image, amount=jitter.amounts[index]: change(
                    x, amount
                )
                for index, change in enumerate(changes)
            ],
        )
    return image


def _blended(x: tf.Tensor, other: tf.Tensor | float, amount: tf.Tensor) -> tf.Tensor:
    """x away from the other image by a share `amount`, towards it if negative."""
    return tf.clip_by_value(other + (1 + amount) * (x - other), 0.0, 1.0)


def _luma(x: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(x * _LUMA, -1, keepdims=True)
