"""Paths, files that are either complete or not there, and what is read back of them.

Every file that a run reads back carries a checksum: JSON as an entry, members of zip
files (`.npz`, `.keras`) as their CRC. A file is verified as a whole before anything of
it is used; JSON without the entry, such as a file written by hand, is taken as it is.
"""

import contextlib
import hashlib
import io
import json
import math
import os
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from advrush_tf.errors import UserError, one_line

# The name of a file or folder that is not complete; a killed run may leave it behind.
TEMPORARY = ".{}.advrush.tmp"


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
    # The file's own name may be as long as names can be, 255 bytes.
    unique = f"{path.name[:50]}.{uuid.uuid4().hex}"
    temporary = path.with_name(TEMPORARY.format(unique))
    try:
        with temporary.open("xb") as file:
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


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes a value and its checksum as indented JSON, as `replacing` does."""
    sealed = {**value, _CHECKSUM: _checksum(value)}
    write_text(path, json.dumps(sealed, indent=2) + "\n")


def parse_json(text: str) -> Any:
    """Returns the value of a JSON text that anybody may have written.

    Raises:
        ValueError: it is not JSON, is nested too deeply to be worked with, names an
            entry twice, or holds a number that is not finite or beyond 64 bits.
    """
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_float=_finite,
            parse_int=_int64,
            parse_constant=_finite,
        )
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    if _depth(value) > _DEEPEST:
        raise ValueError(_TOO_DEEP)
    return value


def read_json(path: Path) -> Any:
    """Returns what a JSON file holds, see `verified_json`.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged.
    """
    return verified_json(path.read_text("utf-8"))


def verified_json(text: str) -> Any:
    """Returns the value of a JSON text, as `parse_json` does, without its checksum.

    Raises:
        ValueError: it is damaged, or was changed after `write_json`.
    """
    value = parse_json(text)
    if isinstance(value, dict) and _CHECKSUM in value:
        checksum = value.pop(_CHECKSUM)
        if checksum != _checksum(value):
            raise ValueError(
                f"it is not what was written; remove its entry {_CHECKSUM!r} if it was "
                "changed on purpose"
            )
    return value


_CHECKSUM = "checksum"


def _checksum(value: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of a JSON value, however it is laid out."""
    canonical = json.dumps(value, sort_keys=True)
    return f"sha256:{hashlib.sha256(canonical.encode()).hexdigest()}"


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Writes an `.npz` file, as `replacing` does."""
    with replacing(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Returns all arrays of an `.npz` file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged.
    """
    content = io.BytesIO(path.read_bytes())
    try:
        check_archive(content)
        content.seek(0)
        with np.load(content, allow_pickle=False) as file:
            return dict(file)
    except Exception as error:  # A damaged archive raises nearly everything.
        raise ValueError(one_line(error)) from None


def check_archive(file: Path | BinaryIO) -> None:
    """Reads all members of a zip file to their ends, where their checksums are.

    NumPy and Keras stop before.

    Raises:
        Exception: of any kind; it is damaged.
    """
    with zipfile.ZipFile(file) as archive:
        if name := archive.testzip():
            raise zipfile.BadZipFile(f"Bad CRC-32 for file {name!r}")
        # Nobody writes any; of a wrong length it takes the members after it.
        if any(member.comment for member in archive.infolist()):
            raise zipfile.BadZipFile("Bad directory")


# What copies and saves a value calls itself several times a level.
_DEEPEST = 50
_TOO_DEEP = f"it is nested more than {_DEEPEST} levels deep"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("an entry is there twice")
    return value


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text[:20]} is not a finite number")
    return number


def _int64(text: str) -> int:
    if not -(2**63) <= (number := int(text)) < 2**63:
        raise ValueError(f"{text[:20]}... is too large a number")
    return number


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level:
        holders = [each for each in level if isinstance(each, dict | list)]
        level = [
            item
            for each in holders
            for item in (each.values() if isinstance(each, dict) else each)
        ]
        depth += bool(holders)
    return depth


def json_copy(value: Any) -> Any:
    """Copies a value into what JSON reads: dictionaries, lists, text, numbers, None.

    Args:
        value: what JSON can hold; NumPy arrays and scalars count as lists and numbers.

    Raises:
        ValueError: JSON cannot hold the value; it has no NaN and no infinity.
    """
    try:
        return json.loads(json.dumps(value, default=_plain, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"JSON cannot hold the value: {error}.") from None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{value!r} is a {type(value).__name__}")
