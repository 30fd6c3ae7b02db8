"""A data set in arrays of an `.npz` file."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from advrush_tf.data.array_examples import (
    COPIES,
    ArrayExamples,
    averaged_over_areas,
    require_memory,
)
from advrush_tf.data.examples import HELD_BACK, Parts
from advrush_tf.data.source import MOST_CLASSES, OWN_FILES
from advrush_tf.errors import UserError, one_line
from advrush_tf.files import check_archive
from advrush_tf.inputs import as_labels

_BATCH = 500
# Bytes of a label while it is checked.
_LABEL = 8


def read_npz(
    path: Path, image_size: int | None = None, test_only: bool = False
) -> Parts:
    """Reads an `.npz` file into memory; Python objects in it are not.

    It has x_train, y_train, x_test and y_test, or one of these pairs; images and labels
    are as `ArrayExamples` takes them.

    Args:
        path: The file.
        image_size, test_only: As for `read_class_folders`.

    Raises:
        UserError: If anything in it is not so, or if it does not fit in memory.
        OSError: If it cannot be read.
    """
    try:
        check_archive(path)
    except OSError:
        raise
    except Exception as error:  # A damaged archive raises nearly everything.
        raise UserError(
            f"{path} is damaged or no .npz file ({one_line(error)}); copy or save it "
            f"again. --dataset takes the path of {OWN_FILES}."
        ) from None
    with np.load(path, allow_pickle=False) as file:
        parts = _parts(path, {*file.files})
        _check_headers(path, file, parts, test_only)
        given = {part: _array(path, file, f"y_{part}") for part in parts}
        labels = {part: _labels(path, part, given[part]) for part in parts}
        names = _numbered_classes(path, labels, given[parts[0]])
        if test_only and "test" in parts:
            parts = ["test"]
        train, test = (
            _examples(path, file, part, labels[part], image_size)
            if part in parts
            else None
            for part in ("train", "test")
        )
    return Parts(train, test, names, "test" if test else HELD_BACK)


def _parts(path: Path, names: set[str]) -> list[str]:
    """The pairs of images and labels that a file with arrays of these names has."""
    pairs = {part: {f"x_{part}", f"y_{part}"} for part in ("train", "test")}
    parts = [part for part in pairs if pairs[part] <= names]
    others = names.difference(*(pairs[part] for part in parts))
    # Beside all four, others do no harm; without them they may be what is missing.
    if not parts or (len(parts) == 1 and others):
        raise UserError(
            f"{path} holds {', '.join(sorted(names)) or 'nothing'}; it must hold "
            "x_train, y_train, x_test and y_test, or one of these pairs alone. Rename "
            "its arrays."
        )
    return parts


def _check_headers(
    path: Path, file: Any, parts: Sequence[str], test_only: bool
) -> None:
    """Checks, before anything is loaded, that labels go with images, and all fits."""
    needed = 0
    for part in parts:
        (images, size), (labels, _) = (
            _header(path, file, f"{kind}_{part}") for kind in "xy"
        )
        if images[:1] != labels[:1]:
            raise UserError(
                f"x_{part} of {path} has the shape {images} and y_{part} {labels}; "
                "give one class per image."
            )
        needed += COPIES * _LABEL * math.prod(labels)
        if part == "test" or not (test_only and "test" in parts):
            needed += COPIES * size * math.prod(images)
    require_memory(f"Data set {path}", needed)


def _header(path: Path, file: Any, name: str) -> tuple[tuple[int, ...], int]:
    """The shape of an array and the bytes of each of its numbers."""
    member = name if name in file.zip.namelist() else f"{name}.npy"
    try:
        with file.zip.open(member) as content:
            first = npy.read_magic(content) == (1, 0)
            read = npy.read_array_header_1_0 if first else npy.read_array_header_2_0
            shape, _, dtype = read(content)
    except ValueError as error:
        raise UserError(
            f"{name} of {path} is no array ({one_line(error)}); save it again."
        ) from None
    return shape, dtype.itemsize


def _array(path: Path, file: Any, name: str) -> np.ndarray:
    try:
        return file[name]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise UserError(
                f"{name} of {path} cannot be read ({one_line(error)}); save it again."
            ) from None
        raise UserError(
            f"{name} of {path} holds Python objects, which are never loaded; save an "
            "array of numbers, such as np.array(list_of_arrays, np.uint8)."
        ) from None


def _labels(path: Path, part: str, given: np.ndarray) -> np.ndarray:
    try:
        labels = as_labels(given).numpy()
    except ValueError as error:
        raise UserError(f"y_{part} of {path}: {error}.") from None
    if not len(labels):
        raise UserError(f"y_{part} of {path} is empty; give images and labels.")
    return labels


def _numbered_classes(
    path: Path, labels: Mapping[str, np.ndarray], given: np.ndarray
) -> tuple[str, ...]:
    """The numbers of the classes, which the training labels say if there are any.

    Args:
        path: The file.
        labels: Classes (N,) by part, the deciding part first.
        given: Those of that part as they are in the file, perhaps one-hot.
    """
    part, deciding = next(iter(labels.items()))
    present = np.unique(deciding)
    one_hot = given.shape[1] if given.ndim == 2 and given.shape[1] > 1 else 0
    count = one_hot or int(present[-1]) + 1
    if not 2 <= count <= MOST_CLASSES:
        found = "one class" if count == 1 else f"{count:,} classes"
        raise UserError(
            f"y_{part} of {path} has {found}; a classifier has two or more, here at "
            f"most {MOST_CLASSES:,}, counted from 0."
        )
    missing = sorted({*range(count)} - {*present.tolist()})
    if missing and part == "train":
        raise UserError(
            f"y_train of {path} has no image of class {missing[0]}, but of class "
            f"{present[-1]}; number the classes from 0 without gaps."
        )
    largest = max(int(each.max()) for each in labels.values())
    if largest >= count:
        raise UserError(
            f"y_test of {path} has class {largest}, but y_train only 0 to {count - 1}; "
            "correct the labels, or give that class training images."
        )
    return tuple(map(str, range(count)))


def _examples(
    path: Path, file: Any, part: str, labels: np.ndarray, image_size: int | None
) -> ArrayExamples:
    try:
        examples = ArrayExamples(_array(path, file, f"x_{part}"), labels)
    except UserError:
        raise
    except ValueError as error:
        message = str(error).rstrip(".")
        raise UserError(f"x_{part} of {path}: {message}.") from None
    height, width, channels = examples.image_shape
    if height <= 4 < channels:
        raise UserError(
            f"x_{part} of {path} has images of {height}x{width} pixels with {channels} "
            "channels; the channels come last here, as x.transpose(0, 2, 3, 1) makes "
            "them."
        )
    if image_size is None:
        return examples
    side = min(height, width)
    if image_size > side:
        raise UserError(
            f"--image_size is {image_size}, but images of x_{part} of {path} have "
            f"{height}x{width} pixels; give a smaller one, or leave it out."
        )
    top, left = (height - side) // 2, (width - side) // 2
    squares = examples.images[:, top : top + side, left : left + side]
    shape = image_size, image_size, channels
    smaller = [
        averaged_over_areas(squares[start : start + _BATCH], shape)
        for start in range(0, len(squares), _BATCH)
    ]
    return ArrayExamples(np.concatenate(smaller), labels)
