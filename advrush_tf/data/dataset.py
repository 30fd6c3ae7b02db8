"""Image classification data sets, of tfds or in the user's own files."""

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from advrush_tf.data.array_examples import COPIES, ArrayExamples, require_memory
from advrush_tf.data.augmentation import Augmentation
from advrush_tf.data.class_folders import read_class_folders
from advrush_tf.data.examples import HELD_BACK, Augmenting, Examples, Parts
from advrush_tf.data.imagenet import CHANNELS, ResizedCrop
from advrush_tf.data.npz import read_npz
from advrush_tf.data.source import image_and_label, normal_path, open_source
from advrush_tf.data.splits import count, read, streamed, train_and_test
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

# What needs more bytes is streamed, on every machine: were it a matter of free memory,
# a run might go on with other batches than it began with.
_LARGEST_IN_MEMORY = 4e9

# Side of the images of a set in which they have many sizes.
_USUAL_SIZE = 224

# Of a set without a test part, the share that is one; not a matter of a run's seed, as
# what one run has trained with must not be what another is tested with.
_SHARE_HELD_BACK, _HELD_BACK_SEED = 0.2, 0


@dataclasses.dataclass(frozen=True, eq=False)
class ImageDataset:
    """A data set of labelled images.

    Attributes:
        name: The tfds name, or the path of the user's own files.
        train: Examples to train with.
        test: Examples to test with.
        num_classes: Number of classes.
        class_names: One name per class.
        test_split: Name of the split that `test` is.
        resampled: True if the images were made smaller than the set's own.
        held_back: True if `test` is a part of the only images that there are.
    """

    name: str
    train: Examples
    test: Examples
    num_classes: int
    class_names: tuple[str, ...]
    test_split: str = "test"
    resampled: bool = False
    held_back: bool = False

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
        """The properties that must be equal on all machines of a run, as JSON types.

        Of images in files only, known by their number, the mean and the deviation of
        the channels.
        """
        return {
            "data set": normal_path(self.name),
            "training images": len(self.train),
            "test images": len(self.test),
            "image shape": list(self.image_shape),
            "classes": list(self.class_names),
            "training checksum": self.train.checksum or self._rounded_moments(),
            "test checksum": self.test.checksum,
        }

    def _rounded_moments(self) -> list[list[float]]:
        """The images' own moments as they are on every processor."""
        return [[round(value, 6) for value in values] for values in self._own_moments]

    @functools.cached_property
    def _moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        known = None if self.resampled else _KNOWN_MOMENTS.get(self.name)
        return known or self._own_moments

    @functools.cached_property
    def _own_moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return self.train.moments()

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
    name: str,
    data_dir: str | Path | None = None,
    image_size: int | None = None,
    test_only: bool = False,
) -> ImageDataset:
    """Opens an image classification data set, of tfds or in the user's own files.

    Its images are read into memory; those of tfds are streamed from its files if they
    have many sizes or would take more than 4 GB. A tfds set that is not prepared yet is
    downloaded and prepared. Without a `test` split, or where that has no labels,
    `validation` takes its place. Without either, a fifth of the training images,
    always the same and where possible of each class, is held back as the test part.

    Args:
        name: One of `source.WELL_KNOWN`, the tfds name (`name`, `name/config`
            or `name:version`) of another set, or the path of a prepared tfds folder
            (the one with dataset_info.json, or its parent), each perhaps followed by
            `@` and tfds' expressions for the training split and, after a comma, the
            test split, such as `@train[:80%],train[80%:]`; or the path of the user's
            own files, see `read_class_folders` and `read_npz`. `digits` is the
            embedded data set.
        data_dir: tfds' folder of prepared data sets; by default tfds' own, which
            honours the environment variable TFDS_DATA_DIR.
        image_size: Side in pixels of the images of a tfds set in which they have many
            sizes, by default 224. Those of a set in memory are averaged over areas
            to squares of that side (the middle squares of the user's own images), and
            are otherwise what they are.
        test_only: Reads what there is to test alone; `train` is empty then.

    Raises:
        UserError: If the data set is unknown, cannot be had, is damaged, is not
            an image classification set, does not fit in memory, or if its images
            cannot have that size.
    """
    name, splits = _name_and_splits(name)
    with _quiet_absl():
        source = open_source(name, data_dir)
        if not isinstance(source, Path):
            dataset = _tfds_dataset(source, splits, image_size, test_only)
        elif splits:
            raise UserError(f"{name} is not of tfds; leave out @{','.join(splits)}.")
        else:
            dataset = _dataset(name, _own_parts(source, image_size, test_only))
    if not (test_only or len(dataset.train)):
        raise UserError(
            f"Data set {name} has no images to train with, only to test with; it "
            "serves launch/attack.py and launch/landscape.py alone."
        )
    return dataset


def _name_and_splits(name: str) -> tuple[str, list[str]]:
    """Separates the name of a data set from the expressions after its last `@`."""
    if Path(name).expanduser().exists():
        return name, []
    first, at, splits = name.rpartition("@")
    if not at:
        return name, []
    expressions = splits.split(",")
    if len(expressions) > 2 or not all(expressions):
        raise UserError(
            f"--dataset is {name}; after @ it must have an expression for the training "
            "split or, with a comma, one for each, such as @train[:80%],train[80%:]."
        )
    return first, expressions


def _tfds_dataset(
    builder: Any, given: Sequence[str], image_size: int | None, test_only: bool
) -> ImageDataset:
    image, label = image_and_label(builder)
    varying = None in image.shape
    shape = _image_shape(builder.name, image.shape, image_size)
    train, test = train_and_test(builder, given)
    if not (train or test):
        available = list(builder.info.splits) or ["none"]
        raise UserError(
            f"Data set {builder.name} has the splits {', '.join(available)}; say which "
            f"is to train and which to test, such as @{','.join(available[:2])} after "
            "its name."
        )
    if test_only and test:
        train = None
    total = sum(count(builder, split) for split in (train, test) if split)
    needed = COPIES * total * int(np.prod(shape))
    as_stream = varying or needed > _LARGEST_IN_MEMORY
    resampled = not varying and shape != image.shape
    if as_stream and resampled:
        raise UserError(
            f"--image_size is {image_size}, but the images of data set "
            f"{builder.name} are streamed in their own size; leave it out."
        )
    if not as_stream:
        require_memory(f"Data set {builder.name}", needed)
    read_split = streamed if as_stream else read
    trained, tested = (
        read_split(builder, split, shape) if split else None for split in (train, test)
    )
    parts = Parts(trained, tested, tuple(label.names), test or HELD_BACK)
    return _dataset(builder.name, parts, resampled)


def _own_parts(path: Path, image_size: int | None, test_only: bool) -> Parts:
    """Reads the user's own files."""
    read_files = read_class_folders if path.is_dir() else read_npz
    try:
        parts = read_files(path, image_size, test_only)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({one_line(error)}); correct its permissions or "
            "copy it again."
        ) from None
    shapes = [part.image_shape for part in parts[:2] if part]
    if len({*shapes}) > 1:
        raise UserError(
            f"The training images of {path} have the shape {shapes[0]} (height, width, "
            f"channels) and those of {parts.test_split} {shapes[1]}; make them alike."
        )
    return parts


def _dataset(name: str, parts: Parts, resampled: bool = False) -> ImageDataset:
    """The data set of one part or of both; one to train with alone is divided."""
    train, test, names, split = parts
    if train and not test:
        try:
            train, test = train.split(1 - _SHARE_HELD_BACK, _HELD_BACK_SEED)
        except ValueError as error:
            raise UserError(f"Data set {name} has no test images. {error}") from None
    assert test
    if not train:
        none = np.zeros((0, *test.image_shape), np.uint8)
        train = ArrayExamples(none, np.zeros(0, np.int32))
    held_back = parts.test is None
    return ImageDataset(
        name, train, test, len(names), names, split, resampled, held_back
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
