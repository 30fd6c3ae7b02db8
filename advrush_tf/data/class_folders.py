"""A data set in class folders: the name of an image's folder is its class."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from advrush_tf.data.array_examples import COPIES, ArrayExamples, require_memory
from advrush_tf.data.examples import HELD_BACK, Parts, in_parallel
from advrush_tf.data.source import OWN_FILES
from advrush_tf.errors import UserError, one_line

_PNG = b"\x89PNG\r\n\x1a\n"
_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif")
# Folders of test images, of which the first that is there counts.
_TESTS = ("test", "validation", "val")


def read_class_folders(
    path: Path, image_size: int | None = None, test_only: bool = False
) -> Parts:
    """Reads a folder of class folders of images into memory.

    It holds folders named train and test (or validation, or val), or one of these, each
    with a folder of images for every class; or it holds the class folders itself.

    Args:
        path: The folder.
        image_size: Side in pixels to which the middle square of each image is averaged
            over areas; None leaves images as they are.
        test_only: Leaves out training images where there are test images.

    Raises:
        UserError: If anything in it is not so, or if it does not fit in memory.
        OSError: If it cannot be read.
    """
    test = next((path / name for name in _TESTS if (path / name).is_dir()), None)
    train: Path | None = path / "train"
    if not (path / "train").is_dir():
        train = None if test else path
    names = _class_names(train or test or path)
    if test and (unknown := sorted({*_class_names(test, 1)} - {*names})):
        raise UserError(
            f"{test} has a class folder {unknown[0]}, which {train} has not; the "
            "classes of training count, so give it training images, or remove it."
        )
    split = test.name if test else HELD_BACK
    tested = _read(test, names, image_size) if test else None
    if not train or (tested and test_only):
        return Parts(None, tested, names, split)
    trained = _read(train, names, image_size)
    if empty := {*range(len(names))} - {*trained.labels.tolist()}:
        raise UserError(
            f"Class folder {train / names[min(empty)]} has no images; put some there, "
            "or remove it."
        )
    return Parts(trained, tested, names, split)


def _class_names(folder: Path, least: int = 2) -> tuple[str, ...]:
    entries = _entries(folder)
    if stray := next((e for e in entries if e.suffix.lower() in _IMAGES), None):
        raise UserError(
            f"{stray} lies outside of a class folder; each class needs a folder of its "
            f"own, such as {folder / 'cat' / stray.name}."
        )
    names = tuple(entry.name for entry in entries if entry.is_dir())
    if len(names) < least:
        found = f"one class folder, {names[0]}," if names else "no class folders"
        raise UserError(
            f"{folder} has {found} and a classifier needs two or more, each a folder "
            f"of images. --dataset takes the path of {OWN_FILES}."
        )
    return names


def _entries(folder: Path) -> list[Path]:
    """The entries of a folder by name, without hidden ones."""
    entries = sorted(entry for entry in folder.iterdir() if entry.name[0] != ".")
    for entry in entries:
        try:
            entry.name.encode()
        except UnicodeError:
            raise UserError(f"{str(entry)!r} is not UTF-8; rename it.") from None
    return entries


def _read(folder: Path, names: Sequence[str], image_size: int | None) -> ArrayExamples:
    """Reads the images in the class folders of these names, where these are there."""
    files = [
        (file, label)
        for label, name in enumerate(names)
        if (folder / name).is_dir()
        for file in _entries(folder / name)
    ]
    if not files:
        raise UserError(
            f"The class folders of {folder} have no images; put some there."
        )
    paths, labels = zip(*files, strict=True)
    for path in paths:
        _check_kind(path)
    images = np.empty(0, np.uint8)
    first: list[int] = []
    for index, (path, image, sides) in enumerate(_decoded(paths, image_size)):
        first = first or sides
        _check_sides(path, sides, paths[0], first, image_size)
        if not index:
            require_memory(f"Data set {folder}", COPIES * len(paths) * image.size)
            images = np.empty((len(paths), *image.shape), np.uint8)
        images[index] = image
    return ArrayExamples(images, np.array(labels))


def _check_kind(path: Path) -> None:
    if path.is_dir():
        raise UserError(
            f"{path} is a folder within a class folder; images lie in their class "
            "folder itself, and class folders in the data set's folder or in its "
            "folders train and test (in small letters)."
        )
    if path.suffix.lower() not in _IMAGES:
        raise UserError(
            f"{path} is not a PNG, JPEG, BMP or GIF image, and a class folder holds "
            "nothing else; convert it or move it away."
        )
    with path.open("rb") as file:
        head = file.read(len(_PNG) + 17)
    if head.startswith(_PNG) and head[-1] == 16:
        raise UserError(
            f"{path} has 16 bits a channel, of which only 8 would be read; convert it "
            "to 8 bits, with its range in 0 to 255."
        )


def _decoded(
    paths: Sequence[Path], image_size: int | None
) -> Iterator[tuple[Path, np.ndarray, list[int]]]:
    """Each image, in its own size or made smaller, and the shape that it had."""

    def load(path: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image = tf.io.decode_image(tf.io.read_file(path), expand_animations=False)
        image = tf.ensure_shape(image, [None, None, None])
        return _square(image, image_size) if image_size else image, tf.shape(image)

    files = tf.data.Dataset.from_tensor_slices([str(path) for path in paths])
    found = in_parallel(files, load).as_numpy_iterator()
    for path in paths:
        try:
            image, sides = next(found)
        except tf.errors.OpError as error:
            raise UserError(
                f"{path} is no readable image ({one_line(error)}); copy it again or "
                "remove it."
            ) from None
        yield path, image, sides.tolist()


def _square(image: tf.Tensor, size: int) -> tf.Tensor:
    """The middle square of an image, averaged over areas."""
    sides = tf.shape(image)[:2]
    side = tf.reduce_min(sides)
    top, left = tf.unstack((sides - side) // 2)
    square = image[top : top + side, left : left + side]
    return tf.cast(tf.round(tf.image.resize(square, [size, size], "area")), tf.uint8)


def _check_sides(
    path: Path,
    sides: Sequence[int],
    first_path: Path,
    first: Sequence[int],
    image_size: int | None,
) -> None:
    """Checks that an image goes with the first one."""
    height, width, channels = sides
    if channels not in (1, 3):
        raise UserError(
            f"{path} has {channels} channels, one of which is its transparency; save "
            "all images in grey or in RGB."
        )
    if channels != first[2]:
        kinds = {1: "grey", 3: "in colour"}
        raise UserError(
            f"{path} is {kinds[channels]} and {first_path} {kinds[first[2]]}; save "
            "all images alike."
        )
    if image_size is None and sides != first:
        raise UserError(
            f"{path} has {height}x{width} pixels and {first_path} has "
            f"{first[0]}x{first[1]}; give --image_size, to which the middle square of "
            "each image is made smaller, or make them alike."
        )
    if image_size and image_size > min(height, width):
        raise UserError(
            f"--image_size is {image_size}, but {path} has {height}x{width} pixels; "
            "give a smaller one, or remove that image."
        )
