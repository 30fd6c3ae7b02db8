"""Image classification data sets of tfds, read into memory or streamed."""

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from advrush_tf.data.array_examples import ArrayExamples, require_memory
from advrush_tf.data.augmentation import Augmentation
from advrush_tf.data.examples import Augmenting, Examples
from advrush_tf.data.imagenet import CHANNELS, ResizedCrop
from advrush_tf.data.records import Records
from advrush_tf.data.source import image_and_label, open_builder
from advrush_tf.data.streaming import StreamedExamples
from advrush_tf.errors import UserError, one_line

# Constants of the DARTS code, kept so that its recipes mean the same here.
CIFAR10_MEAN = (0.49139968, 0.48215827, 0.44653124)
CIFAR10_STD = (0.24703233, 0.24348505, 0.26158768)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_KNOWN_MOMENTS = {
    "cifar10": (CIFAR10_MEAN, CIFAR10_STD),
    "imagenet2012": (IMAGENET_MEAN, IMAGENET_STD),
}

# The images are held here, as the tensor that the pipeline reads, and their half that
# validates once more. What needs more bytes is streamed, on every machine: were it a
# matter of free memory, a run might go on with other batches than it began with.
_COPIES_IN_MEMORY = 3
_LARGEST_IN_MEMORY = 4e9

# Side of the images of a set in which they have many sizes.
_USUAL_SIZE = 224

_READ_BATCH = 500


@dataclasses.dataclass(frozen=True, eq=False)
class ImageDataset:
    """A data set of labelled images.

    Attributes:
        name: The tfds name.
        train: Examples to train with.
        test: Examples to test with.
        num_classes: Number of classes.
        class_names: One name per class.
        test_split: tfds name of the split that `test` is.
        resampled: True if the images were made smaller than the set's own.
    """

    name: str
    train: Examples
    test: Examples
    num_classes: int
    class_names: tuple[str, ...]
    test_split: str = "test"
    resampled: bool = False

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the images of a batch."""
        return self.train.image_shape

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each channel over the training images, in [0, 1]."""
        return self._moments[0]

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of each channel, in [0, 1]; 1 where it would be 0."""
        return self._moments[1]

    def facts(self) -> dict[str, Any]:
        """The properties that must be equal on all machines of a run, as JSON types."""
        return {
            "data set": self.name,
            "training images": len(self.train),
            "test images": len(self.test),
            "image shape": list(self.image_shape),
            "classes": list(self.class_names),
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @functools.cached_property
    def _moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        known = None if self.resampled else _KNOWN_MOMENTS.get(self.name)
        return known or self.train.moments()

    def augmentation(self, augment: bool, cutout: int = 0) -> Augmenting:
        """Returns the augmentation of training images.

        Args:
            augment: Crops and mirrors as is usual for the data set, and changes the
                colours where images have many sizes; otherwise nothing but a cutout.
            cutout: Side of the cutout square in pixels, 0 for none.

        Raises:
            ValueError: If the cutout is negative or does not fit the images.
        """
        if self.train.varying:
            return ResizedCrop(self.image_shape[0], augment, cutout)
        if augment:
            return Augmentation.for_dataset(self.name, self.image_shape, cutout)
        return Augmentation(cutout=cutout)


def load_dataset(
    name: str, data_dir: str | Path | None = None, image_size: int | None = None
) -> ImageDataset:
    """Opens a tfds image classification data set.

    Its images are read into memory, or streamed from its files if they have many
    sizes or would take more than 4 GB. A data set that is not prepared yet is
    downloaded and prepared by tfds. Without a `test` split, or where that has no
    labels, `validation` takes its place.

    Args:
        name: One of `source.WELL_KNOWN`, the tfds name (`name`, `name/config`
            or `name:version`) of another set, or the path of a prepared tfds folder
            (the one with dataset_info.json, or its parent). `digits` is the embedded
            data set, found in a checkout only.
        data_dir: tfds' folder of prepared data sets; by default tfds' own, which
            honours the environment variable TFDS_DATA_DIR.
        image_size: Side in pixels of the images of a set in which they have many
            sizes, by default 224. Those of a set in memory are averaged over areas
            to squares of that side, and are otherwise what they are.

    Raises:
        UserError: If the data set is unknown, cannot be had, is damaged, is not
            an image classification set, does not fit in memory, or if its images
            cannot have that size.
    """
    with _quiet_absl():
        builder = open_builder(name, data_dir)
        image, label = image_and_label(builder)
        varying = None in image.shape
        shape = _image_shape(builder.name, image.shape, image_size)
        splits = _train_and_test(builder)
        count = sum(_count(builder, split) for split in splits)
        needed = _COPIES_IN_MEMORY * count * int(np.prod(shape))
        streamed = varying or needed > _LARGEST_IN_MEMORY
        resampled = not varying and shape != image.shape
        if streamed and resampled:
            raise UserError(
                f"--image_size is {image_size}, but the images of data set "
                f"{builder.name} are streamed in their own size; leave it out."
            )
        if not streamed:
            require_memory(f"Data set {builder.name}", needed)
        read = _streamed if streamed else _read
        train, test = (read(builder, split, shape) for split in splits)
    names = tuple(label.names)
    return ImageDataset(
        builder.name, train, test, label.num_classes, names, splits[1], resampled
    )


def _image_shape(
    name: str, shape: tuple[int | None, ...], image_size: int | None
) -> tuple[int, int, int]:
    height, width, channels = shape
    if height is None or width is None or channels is None:
        size = image_size or _USUAL_SIZE
        return size, size, CHANNELS
    if image_size is None:
        return height, width, channels
    if image_size > min(height, width):
        raise UserError(
            f"--image_size is {image_size}, but the images of data set {name} have "
            f"{height}x{width} pixels; give a smaller one, or leave it out."
        )
    return image_size, image_size, channels


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
    tests = [split for split in ("test", "validation") if split in available]
    if "train" not in available or not tests:
        raise UserError(
            f"Data set {builder.name} has the splits {', '.join(available) or 'none'}; "
            "it needs 'train', and 'test' or 'validation'."
        )
    # ImageNet's test split has no labels, which tfds writes as -1.
    if len(tests) == 2 and _first_label(builder, "test") < 0:
        tests.remove("test")
    return "train", tests[0]


def _count(builder: Any, split: str) -> int:
    """Returns the number of a split's images, which dataset_info.json says."""
    shards = builder.info.splits[split].shard_lengths
    if min(shards, default=0) < 0 or not sum(shards):
        raise UserError(
            f"dataset_info.json of data set {builder.name} says that {split!r} has "
            f"shards of {shards} images; copy or prepare the data set again."
        )
    return sum(shards)


def _first_label(builder: Any, split: str) -> int:
    _, label = builder.info.supervised_keys
    with _naming_damage(builder):
        first = builder.as_dataset(split=f"{split}[:1]", decoders=_undecoded(builder))
        return int(next(first.as_numpy_iterator())[label])


def _streamed(builder: Any, split: str, shape: tuple[int, int, int]) -> Examples:
    info, (image, label) = builder.info.splits[split], image_and_label(builder)
    paths = tuple(map(str, info.filepaths))
    if builder.info.file_format.value != "tfrecord":
        raise UserError(
            f"Data set {builder.name} is prepared as {builder.info.file_format.value}; "
            "prepare it as tfrecord, which is tfds' default."
        )
    with _naming_damage(builder):
        for path in paths:
            tf.io.gfile.stat(path)  # raises where there is none
    records = Records(paths, tuple(info.shard_lengths), 0, info.num_examples)
    keys = builder.info.supervised_keys
    ordered = bool(builder.info.disable_shuffling)
    return StreamedExamples(
        records, keys, shape, label.num_classes, None in image.shape, ordered
    )


def _read(builder: Any, split: str, shape: tuple[int, int, int]) -> Examples:
    """Reads one split, in the order of its files, its images in one shape."""
    _, label = image_and_label(builder)
    count = builder.info.splits[split].num_examples
    images = np.empty((count, *shape), np.uint8)
    labels = np.empty(count, np.int32)
    start = 0
    with _naming_damage(builder, builder.info.splits[split].filepaths):
        for batch_images, batch_labels in _batches(builder, split):
            end = start + len(batch_labels)
            images[start:end] = _resampled(batch_images, shape)
            labels[start:end] = batch_labels
            start = end
    if not count or labels.min() < 0 or labels.max() >= label.num_classes:
        raise UserError(
            f"Split {split!r} of data set {builder.name} has no images or has labels "
            f"outside 0 to {label.num_classes - 1}; use a fully labelled set."
        )
    return ArrayExamples(images, labels)


def _resampled(images: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Returns the images with each pixel the mean of the area that it covers."""
    if images.shape[1:] == tuple(shape):
        return images
    return np.rint(tf.image.resize(images, shape[:2], "area")).astype(np.uint8)


def _batches(builder: Any, split: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    import tensorflow_datasets as tfds

    dataset = builder.as_dataset(
        split=split,
        as_supervised=True,
        shuffle_files=False,
        read_config=tfds.ReadConfig(try_autocache=False),
    )
    return dataset.batch(_READ_BATCH).as_numpy_iterator()


def _undecoded(builder: Any) -> Any:
    import tensorflow_datasets as tfds

    image, _ = builder.info.supervised_keys
    return {image: tfds.decode.SkipDecoding()}


@contextlib.contextmanager
def _naming_damage(builder: Any, paths: Sequence[Any] = ()) -> Iterator[None]:
    """Turns what reading files raises into a UserError that names the damaged one."""
    try:
        yield
    except (tf.errors.OpError, OSError) as error:
        damaged = next(
            (path for path in map(Path, paths) if not _is_readable(path)),
            builder.data_path,
        )
        raise UserError(
            f"The prepared data set {builder.name} is damaged at {damaged} "
            f"({one_line(error)}); delete its folder and prepare or copy it again."
        ) from error


def _is_readable(path: Path) -> bool:
    try:
        for _ in tf.data.TFRecordDataset(str(path)):
            pass
    except tf.errors.OpError:
        return False
    return True
