"""Image classification data sets, read from tfds into memory."""

import contextlib
import dataclasses
import functools
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tensorflow as tf

from advrush_tf.data_source import image_and_label, open_builder, reason
from advrush_tf.errors import UserError

# Constants of the DARTS code, kept so that its recipes mean the same here.
CIFAR10_MEAN = (0.49139968, 0.48215827, 0.44653124)
CIFAR10_STD = (0.24703233, 0.24348505, 0.26158768)

# The images are held here, as the tensor that the pipeline reads, and their half that
# validates once more; training needs room as well.
_MEMORY_SHARE = 0.75
_COPIES_IN_MEMORY = 3

_READ_BATCH = 500


@dataclasses.dataclass(frozen=True, eq=False)
class ImageDataset:
    """A data set of labelled images in memory.

    Attributes:
        name: The tfds name.
        train_images: uint8 (N, H, W, C), 0 to 255.
        train_labels: int32 (N,), 0 to `num_classes` - 1.
        test_images: uint8 (M, H, W, C).
        test_labels: int32 (M,).
        num_classes: Number of classes.
        class_names: One name per class.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    num_classes: int
    class_names: tuple[str, ...]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image."""
        height, width, channels = self.train_images.shape[1:]
        return height, width, channels

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each channel over the training images, in [0, 1]."""
        return CIFAR10_MEAN if self.name == "cifar10" else self._moments[0]

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of each channel, in [0, 1]; 1 where it would be 0."""
        return CIFAR10_STD if self.name == "cifar10" else self._moments[1]

    @functools.cached_property
    def _moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        # In whole numbers the sums are exact, and no float copy of the images is made.
        levels = np.arange(256)
        means, deviations = [], []
        for channel in range(self.image_shape[2]):
            counts = np.bincount(self.train_images[..., channel].ravel(), minlength=256)
            pixels, total = int(counts.sum()), int(levels @ counts)
            spread = pixels * int(levels**2 @ counts) - total**2
            means.append(total / pixels / 255)
            deviations.append(math.sqrt(spread) / pixels / 255 if spread else 1.0)
        return tuple(means), tuple(deviations)


def load_dataset(name: str, data_dir: str | Path | None = None) -> ImageDataset:
    """Reads a tfds image classification data set into memory.

    A data set that is not prepared yet is downloaded and prepared by tfds. Without
    a `test` split, `validation` takes its place.

    Args:
        name: One of `data_source.WELL_KNOWN`, the tfds name (`name`, `name/config`
            or `name:version`) of another set with one image size, or the path of a
            prepared tfds folder (the one with dataset_info.json, or its parent).
            `digits` is the embedded data set, found in a checkout only.
        data_dir: tfds' folder of prepared data sets; by default tfds' own, which
            honours the environment variable TFDS_DATA_DIR.

    Returns:
        The data set, images as uint8 NHWC.

    Raises:
        UserError: If the data set is unknown, cannot be had, is damaged, is not
            an image classification set of one size, or does not fit in memory.
    """
    with _quiet_absl():
        builder = open_builder(name, data_dir)
        _, label = image_and_label(builder)
        splits = _train_and_test(builder)
        _check_memory(builder, splits)
        parts = [_read(builder, split) for split in splits]
    return ImageDataset(
        name=builder.name,
        train_images=parts[0][0],
        train_labels=parts[0][1],
        test_images=parts[1][0],
        test_labels=parts[1][1],
        num_classes=label.num_classes,
        class_names=tuple(label.names),
    )


@contextlib.contextmanager
def _quiet_absl() -> Iterator[None]:
    # tfds warns of each folder that it looks into and finds empty.
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _train_and_test(builder: Any) -> tuple[str, str]:
    available = list(builder.info.splits)
    test = next((split for split in ("test", "validation") if split in available), None)
    if "train" not in available or test is None:
        raise UserError(
            f"Data set {builder.name} has the splits {', '.join(available) or 'none'}; "
            "it needs 'train', and 'test' or 'validation'."
        )
    return "train", test


def _check_memory(builder: Any, splits: tuple[str, str]) -> None:
    image, _ = image_and_label(builder)
    pixels = int(np.prod(image.shape))
    examples = sum(builder.info.splits[split].num_examples for split in splits)
    needed = _COPIES_IN_MEMORY * examples * pixels
    limit = _MEMORY_SHARE * psutil.virtual_memory().available
    if needed > limit:
        raise UserError(
            f"Data set {builder.name} needs {needed / 1e9:.1f} GB, as its images are "
            f"held in memory whole and three times; the limit is {limit / 1e9:.1f} GB, "
            f"{_MEMORY_SHARE:.0%} of the free memory: free some or use a smaller set."
        )


def _read(builder: Any, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads one split, in the order of its files."""
    image, label = image_and_label(builder)
    count = builder.info.splits[split].num_examples
    images = np.empty((count, *image.shape), np.uint8)
    labels = np.empty(count, np.int32)
    start = 0
    try:
        for batch_images, batch_labels in _batches(builder, split):
            end = start + len(batch_labels)
            images[start:end], labels[start:end] = batch_images, batch_labels
            start = end
    except (tf.errors.OpError, OSError) as error:
        raise UserError(_damage_message(builder, split, error)) from error
    if not count or labels.min() < 0 or labels.max() >= label.num_classes:
        raise UserError(
            f"Split {split!r} of data set {builder.name} has no images or has labels "
            f"outside 0 to {label.num_classes - 1}; use a fully labelled set."
        )
    return images, labels


def _batches(builder: Any, split: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    import tensorflow_datasets as tfds

    dataset = builder.as_dataset(
        split=split,
        as_supervised=True,
        shuffle_files=False,
        read_config=tfds.ReadConfig(try_autocache=False),
    )
    return dataset.batch(_READ_BATCH).as_numpy_iterator()


def _damage_message(builder: Any, split: str, error: Exception) -> str:
    paths = [Path(path) for path in builder.info.splits[split].filepaths]
    damaged = next(
        (path for path in paths if not _is_readable(path)), builder.data_path
    )
    return (
        f"The prepared data set {builder.name} is damaged at {damaged} "
        f"({reason(error)}); delete its folder and prepare or copy it again."
    )


def _is_readable(path: Path) -> bool:
    try:
        for _ in tf.data.TFRecordDataset(str(path)):
            pass
    except tf.errors.OpError:
        return False
    return True
