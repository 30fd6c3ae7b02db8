"""One size from encoded images of many sizes, as is usual with ImageNet."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from advrush_tf.data.augmentation import Augmentation, Draws
from advrush_tf.data.colour_jitter import Jitter, draw_jitter, jittered

CHANNELS = 3

# A random part has this share of the area and this ratio of width to height; after ten
# that do not fit into the image, the middle of it is taken (Szegedy et al., 2014,
# arXiv:1409.4842, and torchvision's RandomResizedCrop).
_AREA = (0.08, 1.0)
_RATIO = (3 / 4, 4 / 3)
_ATTEMPTS = 10

# For an evaluation the short side has 256 pixels where the crop has 224.
_MARGIN = 256 / 224


class ResizedCropDraws(NamedTuple):
    """What `ResizedCrop` does to each image of a batch.

    Attributes:
        parts: float32 (B, 10, 2) in [0, 1): area and logarithm of the ratio of ten
            parts, as places in their ranges.
        places: float32 (B, 2) in [0, 1): where the part lies, from top left.
        jitter: Change of the colours.
        after: What `Augmentation` does.
    """

    parts: tf.Tensor
    places: tf.Tensor
    jitter: Jitter
    after: Draws


@dataclasses.dataclass(frozen=True)
class ResizedCrop:
    """A part of each image in one size, random and in other colours, or its middle.

    Attributes:
        size: Side of the resulting images, in pixels.
        random: Whether to take a random part, change its colours and mirror half of
            them; else the middle is taken as in an evaluation.
        cutout: See `Augmentation`.

    Raises:
        ValueError: If `cutout` is negative.

    Source: DARTS' training on ImageNet.
    """

    size: int
    random: bool = True
    cutout: int = 0

    def __post_init__(self) -> None:
        self._after.check((self.size, self.size, CHANNELS))

    @property
    def _after(self) -> Augmentation:
        return Augmentation(flip=self.random, cutout=self.cutout)

    def check(self, image_shape: Sequence[int]) -> None:
        """As `Augmentation.check`."""
        self._after.check(image_shape)

    def draw(self, seed: tf.Tensor, image_shape: Sequence[int]) -> ResizedCropDraws:
        """Draws what happens to each image.

        Args:
            seed: Integer seed (2,).
            image_shape: Batch size, height, width, channels.
        """
        parts, places, colours, after = tf.unstack(tf.random.split(seed, 4), num=4)
        batch = image_shape[0]
        return ResizedCropDraws(
            tf.random.stateless_uniform([batch, _ATTEMPTS, 2], parts),
            tf.random.stateless_uniform([batch, 2], places),
            draw_jitter(colours, batch),
            self._after.draw(after, image_shape),
        )

    def apply(
        self,
        images: tf.Tensor,
        draws: ResizedCropDraws,
        mean: Sequence[float] | None = None,
    ) -> tf.Tensor:
        """Decodes, crops, resizes, changes the colours, mirrors and blots out.

        Args:
            images: Encoded images (B,), JPEG or PNG.
            draws: From `draw`, for this batch size.
            mean: Colour of the cutout, see `Augmentation.apply`.

        Returns:
            float32 (B, size, size, 3) in [0, 1].
        """
        if not self.random:
            cropped = centre_crops(images, self.size)
        else:
            inputs = images, draws.parts, draws.places, draws.jitter
            cropped = _each(self._random_part, inputs, (self.size, self.size, CHANNELS))
        return self._after.apply(cropped, draws.after, mean)

    def _random_part(self, inputs: tuple[Any, ...]) -> tf.Tensor:
        encoded, parts, places, jitter = inputs
        image = _decoded(encoded, CHANNELS)
        part = random_part(tf.shape(image)[:2], parts, places)
        top, left, height, width = tf.unstack(part, num=4)
        image = _resized(
            image[top : top + height, left : left + width], [self.size, self.size]
        )
        return _to_bytes(jittered(image / 255, jitter) * 255)


def random_part(sides: tf.Tensor, parts: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
    """A part of an image: the first of those drawn that fits, or the middle.

    Args:
        sides: Height and width of the image, int32 (2,).
        parts, places: Of this image, see `ResizedCropDraws`.

    Returns:
        Top, left, height and width in pixels, int32 (4,).
    """
    height, width = tf.unstack(tf.cast(sides, tf.float32), num=2)
    area = height * width * (_AREA[0] + (_AREA[1] - _AREA[0]) * parts[:, 0])
    low, high = map(math.log, _RATIO)
    ratio = tf.exp(low + (high - low) * parts[:, 1])
    heights, widths = tf.round(tf.sqrt(area / ratio)), tf.round(tf.sqrt(area * ratio))
    fits = (heights >= 1) & (heights <= height) & (widths >= 1) & (widths <= width)
    first = tf.argmax(fits)
    # The largest middle part whose ratio is allowed.
    middle = tf.stack(
        [
            tf.minimum(height, tf.round(width / _RATIO[0])),
            tf.minimum(width, tf.round(height * _RATIO[1])),
        ]
    )
    drawn = tf.stack([heights[first], widths[first]])
    fitting = tf.reduce_any(fits)
    size = tf.where(fitting, drawn, middle)
    room = tf.stack([height, width]) - size
    corner = tf.where(fitting, tf.floor(places * (room + 1)), tf.floor(room / 2))
    return tf.cast(tf.concat([corner, size], 0), tf.int32)


def centre_crops(images: tf.Tensor, size: int) -> tf.Tensor:
    """The middle of each image after its short side is made 256/224 of the size.

    Args:
        images: Encoded images (B,).
        size: Side of the middle, in pixels.

    Returns:
        uint8 (B, size, size, 3).
    """

    def crop(encoded: tf.Tensor) -> tf.Tensor:
        image = _decoded(encoded, CHANNELS)
        sides = tf.shape(image)[:2]
        short = round(size * _MARGIN)
        sides = sides * short // tf.reduce_min(sides)
        top, left = tf.unstack((sides - size) // 2, num=2)
        resized = _resized(image, sides)
        return _to_bytes(resized[top : top + size, left : left + size])

    return _each(crop, images, (size, size, CHANNELS))


def decode(images: tf.Tensor, image_shape: Sequence[int]) -> tf.Tensor:
    """Decodes images of one size.

    Args:
        images: Encoded images (B,).
        image_shape: Height, width, channels.

    Returns:
        uint8 (B, H, W, C).
    """
    return _each(lambda image: _decoded(image, image_shape[2]), images, image_shape)


def _each(
    function: Callable[[Any], tf.Tensor], images: Any, image_shape: Sequence[int]
) -> tf.Tensor:
    return tf.map_fn(
        lambda image: tf.ensure_shape(function(image), image_shape),
        images,
        fn_output_signature=tf.TensorSpec(image_shape, tf.uint8),
    )


def _decoded(image: tf.Tensor, channels: int) -> tf.Tensor:
    return tf.io.decode_image(image, channels=channels, expand_animations=False)


def _resized(image: tf.Tensor, sides: Any) -> tf.Tensor:
    # As PIL does it: smoothed where the image gets smaller.
    return tf.image.resize(image, sides, antialias=True)


def _to_bytes(image: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.round(tf.clip_by_value(image, 0.0, 255.0)), tf.uint8)
