"""Random crops, flips and cutouts of whole batches, from stateless random numbers."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

# Images of these tfds sets change their meaning, or become strange, when mirrored.
_NOT_MIRRORED = frozenset(
    {
        "binary_alpha_digits",
        "cmaterdb",
        "digits",
        "emnist",
        "kmnist",
        "mnist",
        "mnist_corrupted",
        "omniglot",
        "svhn_cropped",
    }
)


class Draws(NamedTuple):
    """Random numbers of `Augmentation` for each image of a batch, all int32 (B,)."""

    rows: tf.Tensor
    columns: tf.Tensor
    mirrored: tf.Tensor
    centre_rows: tf.Tensor
    centre_columns: tf.Tensor


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random crop, flip and cutout of whole batches.

    Attributes:
        crop_padding: Black pixels added on each side before cropping to the old size.
        flip: Mirrors half of the images left to right.
        cutout: Side in pixels of the square that is blotted out, 0 for none (DeVries
            and Taylor, 2017, arXiv:1708.04552). Its centre lies anywhere in the
            image; what hangs over the border is cut off.

    Raises:
        ValueError: If `crop_padding` or `cutout` is negative.
    """

    crop_padding: int = 0
    flip: bool = False
    cutout: int = 0

    def __post_init__(self) -> None:
        for field in ("crop_padding", "cutout"):
            if getattr(self, field) < 0:
                raise ValueError(
                    f"{field} must be 0 or more pixels, not {getattr(self, field)}."
                )

    @classmethod
    def for_dataset(
        cls, name: str, image_shape: Sequence[int], cutout: int = 0
    ) -> "Augmentation":
        """Returns the usual augmentation of a data set.

        Args:
            name: tfds name; digits and letters are not mirrored, all else is.
            image_shape: Height, width, channels.
            cutout: Side of the cutout square in pixels, 0 for none.

        Returns:
            Padding 4 for images of 28 pixels and more, less for smaller ones.

        Raises:
            ValueError: If the cutout is negative or does not fit the images.
        """
        # An eighth of the side, the share that DARTS' 4 pixels are of CIFAR's 32: on
        # 8x8 images 4 pixels could push half of a digit out. Never more than 4.
        padding = min(4, max(1, round(min(image_shape[:2]) / 8)))
        usual = cls(padding, flip=name not in _NOT_MIRRORED, cutout=cutout)
        usual.check(image_shape)
        return usual

    def check(self, image_shape: Sequence[int]) -> None:
        """Checks that something of every image is left.

        Args:
            image_shape: Height, width, channels.

        Raises:
            ValueError: If `crop_padding` or `cutout` is as large as the image.
        """
        side = min(image_shape[:2])
        for field in ("crop_padding", "cutout"):
            if getattr(self, field) >= side:
                raise ValueError(
                    f"{field} must be below the image's side of {side} pixels, not "
                    f"{getattr(self, field)}, or nothing of some images is left."
                )

    def draw(self, seed: tf.Tensor, image_shape: Sequence[int]) -> Draws:
        """Draws what happens to each image.

        Args:
            seed: Integer seed (2,).
            image_shape: Batch size, height, width, channels.

        Returns:
            The top left corner of each crop in the padded image, 0 to 2 *
            `crop_padding`; 1 where the image is mirrored, 0 elsewhere; and the centre
            of each cutout, a pixel of the image.
        """
        batch, height, width = image_shape[:3]
        offsets = 2 * self.crop_padding + 1
        limits = [offsets, offsets, 2 if self.flip else 1, height, width]
        shape = [len(limits), batch]
        bits = tf.random.stateless_uniform(
            shape, seed, minval=None, maxval=None, dtype=tf.uint32
        )
        return Draws(*tf.unstack(tf.cast(bits % _column(limits), tf.int32)))

    def apply(
        self, images: tf.Tensor, draws: Draws, mean: Sequence[float] | None = None
    ) -> tf.Tensor:
        """Crops, mirrors and blots out, as drawn.

        Args:
            images: uint8 (B, H, W, C).
            draws: From `draw`, for this batch size.
            mean: Colour of the cutout, one number in [0, 1] per channel: the mean
                that the model subtracts, so that the square is 0 for it. Black if
                None.

        Returns:
            float32 (B, H, W, C) in [0, 1].
        """
        _, height, width, _ = images.shape
        rows, columns = tf.range(height), tf.range(width)
        mirrored = draws.mirrored[:, tf.newaxis] * (width - 1 - 2 * columns)
        if self.crop_padding:
            images = tf.pad(images, [[0, 0], *[[self.crop_padding] * 2] * 2, [0, 0]])
        row_picks = draws.rows[:, tf.newaxis] + rows
        column_picks = draws.columns[:, tf.newaxis] + columns + mirrored
        images = tf.gather(images, row_picks, axis=1, batch_dims=1)
        images = to_unit_range(tf.gather(images, column_picks, axis=2, batch_dims=1))
        if not self.cutout:
            return images
        blotted = (
            self._covers(rows, draws.centre_rows)[:, :, tf.newaxis, tf.newaxis]
            & self._covers(columns, draws.centre_columns)[:, tf.newaxis, :, tf.newaxis]
        )
        return tf.where(blotted, 0.0 if mean is None else list(mean), images)

    def _covers(self, positions: tf.Tensor, centres: tf.Tensor) -> tf.Tensor:
        starts = centres[:, tf.newaxis] - self.cutout // 2
        return (positions >= starts) & (positions < starts + self.cutout)


def to_unit_range(images: tf.Tensor) -> tf.Tensor:
    """Turns uint8 images, 0 to 255, into float32 ones in [0, 1]."""
    # Not a division: TensorFlow turns that into this product in graphs but not in eager
    # mode, and the last bit of the images would depend on the mode.
    return tf.cast(images, tf.float32) * (1 / 255)


def _column(numbers: Sequence[int]) -> tf.Tensor:
    return tf.constant(numbers, tf.uint32)[:, tf.newaxis]
