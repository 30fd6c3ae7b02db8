"""Finding a data set: of tfds, by name or by path, or the user's own files by path."""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from advrush_tf.errors import UserError, one_line

WELL_KNOWN = (
    "cifar10",
    "cifar100",
    "svhn_cropped",
    "fashion_mnist",
    "mnist",
    "digits",
    "imagenet2012",
    "imagenet_resized/64x64",
)

OWN_FILES = (
    "a prepared tfds folder, a folder of class folders, or an .npz of x_train, "
    "y_train, x_test and y_test"
)

# What claims more is damaged: each class has a name, and a row of a network's weights.
MOST_CLASSES = 100_000

# The embedded data set, which testdata/make_digits.py makes.
_DIGITS = Path(__file__).resolve().parent / "digits"


def open_source(name: str, data_dir: str | Path | None = None) -> Any:
    """Returns the builder of a tfds set, which tfds may download, or an existing path.

    Args:
        name: As for `advrush_tf.data.load_dataset`, without split expressions.
        data_dir: As for `advrush_tf.data.load_dataset`.

    Returns:
        A `tfds.core.DatasetBuilder` whose files are prepared, or the `Path` of the
        user's own files.

    Raises:
        UserError: If the data set is unknown, not an image classification set,
            half-made, or cannot be downloaded.
    """
    folder = _checked_data_dir(data_dir)
    if name == "digits":
        return _from_path(str(_DIGITS))
    if _is_path(name):
        return _from_path(name)
    return _named_builder(name, folder)


def normal_path(name: str) -> str:
    """Returns the path of the user's own files in its plainest spelling.

    Args:
        name: As for `advrush_tf.data.load_dataset`; that of a tfds set is unchanged.
    """
    if not _is_path(name):
        return name
    plain = os.path.normpath(name)
    # A folder's name alone may be that of a tfds set.
    return plain if _is_path(plain) else os.path.join(".", plain)


def image_and_label(builder: Any) -> tuple[Any, Any]:
    """Returns the features of the image and of its class.

    Args:
        builder: A `tfds.core.DatasetBuilder`.

    Returns:
        The `tfds.features.Image`, 8-bit, and the `ClassLabel`.

    Raises:
        UserError: If the data set has no such pair of supervised keys, or more classes
            than a network can have.
    """
    import tensorflow_datasets as tfds  # slow, and only needed to read data

    name, keys = builder.name, builder.info.supervised_keys
    if not keys or len(keys) != 2 or not all(isinstance(k, str) for k in keys):
        raise UserError(
            f"Data set {name} does not say which features are its image and its "
            "label; use an image classification set."
        )
    image, label = (builder.info.features[key] for key in keys)
    if (
        not isinstance(image, tfds.features.Image)
        or np.dtype(image.np_dtype) != np.uint8
    ):
        raise UserError(
            f"Feature {keys[0]!r} of data set {name} is not an 8-bit image; use an "
            "image classification set."
        )
    if not isinstance(label, tfds.features.ClassLabel) or not label.num_classes:
        raise UserError(
            f"Feature {keys[1]!r} of data set {name} is not a class label; use an "
            "image classification set."
        )
    if label.num_classes > MOST_CLASSES:
        raise UserError(
            f"Data set {name} has {label.num_classes:,} classes; a classifier has at "
            f"most {MOST_CLASSES:,} here. Correct its features.json, or prepare it "
            "again."
        )
    return image, label


def _named_builder(name: str, data_dir: Path | None) -> Any:
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        if Path(name).is_dir():
            return _from_path(name)
        raise UserError(
            f"Unknown data set {name!r}; use {', '.join(WELL_KNOWN)}, another tfds "
            f"image classification set, or the path of {OWN_FILES}."
        ) from error
    except Exception as error:  # tfds raises many kinds, for versions and configs
        raise UserError(
            f"tfds cannot open data set {name!r} ({one_line(error)}); check its name, "
            "configuration and version."
        ) from error
    image_and_label(builder)  # not after a long download
    if not builder.is_prepared():
        _prepare(builder)
    return builder


def _prepare(builder: Any) -> None:
    if builder.data_path.exists():
        raise UserError(
            f"{builder.data_path} is not a complete data set (it lacks the files "
            "dataset_info.json or features.json); delete it and run again, or copy "
            "it again."
        )
    try:
        builder.download_and_prepare()
    except Exception as error:  # network, disk, checksums, missing packages, ...
        config = f"/{builder.builder_config.name}" if builder.builder_config else ""
        name = f"{builder.name}{config}"
        raise UserError(
            f"Data set {name} is not prepared in {builder.data_dir_root} and could "
            f"not be downloaded ({one_line(error)}); where there is network, run once "
            f"python -c \"import tensorflow_datasets as tfds; tfds.load('{name}')\", "
            f"or copy the prepared folder {builder.name} from another machine and "
            "name the folder it lies in with --data_dir."
        ) from error


def _checked_data_dir(data_dir: str | Path | None) -> Path | None:
    if data_dir is None:
        return None
    path = Path(data_dir).expanduser()
    if not path.is_dir():
        raise UserError(
            f"--data_dir={data_dir} is not a folder; create it, or name tfds' folder "
            "of prepared data sets."
        )
    try:
        next(path.iterdir(), None)
    except OSError as error:
        raise UserError(
            f"--data_dir={data_dir} cannot be read ({one_line(error)}); correct its "
            "permissions or name another folder."
        ) from error
    return path


def _is_path(name: str) -> bool:
    if name.startswith(("/", ".", "~")) or name.lower().endswith(".npz"):
        return True
    return "/" in name and Path(name).exists()


def _from_path(name: str) -> Any:
    """The builder of a prepared tfds folder, or any other path that is there."""
    path = Path(name).expanduser()
    if not path.exists():
        raise UserError(f"There is no {name}; give the path of {OWN_FILES}.")
    folders = [path, *sorted(path.glob("*/"), key=_version_key, reverse=True)]
    folder = next((f for f in folders if (f / "dataset_info.json").is_file()), None)
    return path if folder is None else _builder_from_folder(folder)


def _builder_from_folder(folder: Path) -> Any:
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(folder)
    except Exception as error:  # tfds does not say what a broken file raises
        raise UserError(
            f"The prepared tfds folder {folder} is damaged ({one_line(error)}); copy "
            "or prepare it again."
        ) from error
    return builder


def _version_key(folder: Path) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", folder.name))
