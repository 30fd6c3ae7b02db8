"""Paths, files that are either complete or not there, and JSON."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from advrush_tf.errors import UserError


def expanded(path: str) -> str:
    """Returns a path with the home folder in place of a leading `~`.

    Args:
        path: of anything, whether it is there or not.

    Raises:
        UserError: nothing can ever be there: no such user, a loop of links, a name that
            is too long or not UTF-8, a folder that may not be entered.
    """
    found = os.path.expanduser(path)
    if found.startswith("~"):
        raise UserError(
            f"{path} begins with no user's home folder; write ./{path} for a folder "
            "of that name"
        )
    try:
        found.encode()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.stat(found)
    except UnicodeError:
        raise UserError(f"{path!r} is not UTF-8; rename it") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path!r} cannot be used: {reason}") from None
    return found


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Opens a file that takes the place of `path` once it is complete and on disk.

    Args:
        path: the file; its folder exists.

    Raises:
        OSError: it could not be written; an earlier file of that name is untouched.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8, as `replacing` does."""
    with replacing(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Writes a value as indented JSON, as `replacing` does."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def json_copy(value: Any) -> Any:
    """Copies a value into what JSON reads: dictionaries, lists, text, numbers, None.

    Args:
        value: what JSON can hold; NumPy arrays and scalars count as lists and numbers.

    Raises:
        ValueError: JSON cannot hold the value; it has no NaN and no infinity.
    """
    try:
        return json.loads(json.dumps(value, default=_plain, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"JSON cannot hold the value: {error}.") from None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{value!r} is a {type(value).__name__}")
