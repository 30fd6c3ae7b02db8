"""Images of one size from encoded images of many sizes, as is usual with ImageNet."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from advrush_tf.data.augmentation import Augmentation, Draws

CHANNELS = 3

# Of a random crop: its share of the area, its ratio of width to height, and how many
# are drawn to find one that fits; else the whole image is taken.
_AREA = (0.08, 1.0)
_RATIO = (3 / 4, 4 / 3)
_ATTEMPTS = 10

# Brightness moves by at most 0.4, contrast and saturation change by factors within
# 1 +- 0.4, and the hue turns by at most a fifth of the circle.
_BRIGHTNESS = 0.4
_FACTORS = (0.6, 1.4)
_HUE = 0.2

# For an evaluation the short side has 256 pixels where the crop has 224.
_MARGIN = 256 / 224


class ResizedCropDraws(NamedTuple):
    """The random numbers of `ResizedCrop` for each image of a batch.

    Attributes:
        crops: Seeds of the crops, int (B, 2).
        colours: Seeds of the changes of colour, int (B, 2).
        after: Draws of `Augmentation`.
    """

    crops: tf.Tensor
    colours: tf.Tensor
    after: Draws


@dataclasses.dataclass(frozen=True)
class ResizedCrop:
    """A random crop of each image in one size and other colours, or its middle.

    Attributes:
        size: Side of the resulting images, in pixels.
        random: Takes a random crop, changes its colours and mirrors half of the
            images; otherwise the middle is taken as in an evaluation.
        cutout: See `Augmentation`.

    Raises:
        ValueError: If `cutout` is negative.

    Source: DARTS' training on ImageNet, with the operations of `tf.image`.
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
        """Draws the random numbers of each image.

        Args:
            seed: Integer seed (2,).
            image_shape: Batch size, height, width, channels.
        """
        crops, colours, after = tf.unstack(tf.random.split(seed, 3), num=3)
        return ResizedCropDraws(
            tf.random.split(crops, image_shape[0]),
            tf.random.split(colours, image_shape[0]),
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
            inputs = images, draws.crops, draws.colours
            cropped = _each(self._random_crop, inputs, (self.size, self.size, CHANNELS))
        return self._after.apply(cropped, draws.after, mean)

    def _random_crop(self, inputs: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> tf.Tensor:
        encoded, crop, colours = inputs
        image = _decoded(encoded, CHANNELS)
        image = tf.slice(image, *random_box(tf.shape(image), crop))
        image = _resized(image, [self.size, self.size])
        return _to_bytes(255 * jittered(image / 255, colours))


def random_box(shape: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Draws a part of an image.

    Args:
        shape: Height, width and channels of the image, int32 (3,).
        seed: Integer seed (2,).

    Returns:
        The top left corner and the size of the part, as `tf.slice` takes them.
    """
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        shape,
        tf.zeros([1, 0, 4]),
        seed,
        min_object_covered=0.0,
        aspect_ratio_range=_RATIO,
        area_range=_AREA,
        max_attempts=_ATTEMPTS,
        use_image_if_no_bounding_boxes=True,
    )
    return begin, size


def jittered(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Changes the brightness, contrast, saturation and hue of an image at random.

    Args:
        image: float32 (H, W, 3) in [0, 1].
        seed: Integer seed (2,).

    Returns:
        float32 (H, W, 3) in [0, 1].
    """
    brightness, contrast, saturation, hue = tf.unstack(tf.random.split(seed, 4), num=4)
    image = tf.image.stateless_random_brightness(image, _BRIGHTNESS, brightness)
    image = tf.clip_by_value(image, 0.0, 1.0)
    image = tf.image.stateless_random_contrast(image, *_FACTORS, contrast)
    # Saturation and hue are defined in [0, 1] only.
    image = tf.clip_by_value(image, 0.0, 1.0)
    image = tf.image.stateless_random_saturation(image, *_FACTORS, saturation)
    return tf.image.stateless_random_hue(image, _HUE, hue)


def centre_crops(images: tf.Tensor, size: int) -> tf.Tensor:
    """The middle of each image after its short side is resized to 256/224 of the size.

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
        # Halves to the even pixel, as in torchvision's CenterCrop.
        corner = tf.round((sides - size) / 2)
        top, left = tf.unstack(tf.cast(corner, tf.int32), num=2)
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
