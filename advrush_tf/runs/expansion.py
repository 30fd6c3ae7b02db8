"""The memory that a model file asks for, before anything of it is loaded."""

import zipfile
from pathlib import Path

import h5py

# Keras stores weights as they are, and weights hardly compress.
_MOST_TIMES = 10
_HARMLESS = 2**26  # bytes


def check_expansion(path: Path) -> None:
    """Raises ValueError where a `.keras` file becomes far more than it is on disk.

    Args:
        path: a zip file; an exception of any kind may say that it is damaged.

    Raises:
        ValueError: its members, or the arrays that its HDF5 members declare, have
            together more than ten times the file's bytes.
    """
    size = path.stat().st_size
    limit = _MOST_TIMES * size + _HARMLESS
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        _check(sum(member.file_size for member in members), size, limit)
        declared = 0
        for member in members:
            if member.filename.endswith(".h5"):
                with archive.open(member) as file:
                    declared += _declared_bytes(file)
                _check(declared, size, limit)


def _check(needed: int, size: int, limit: int) -> None:
    if needed > limit:
        raise ValueError(
            f"its {size:,} bytes would become {needed:,}, more than weights ever do"
        )


def _declared_bytes(file: object) -> int:
    """Returns the bytes of all arrays in an HDF5 file, stored or only declared."""
    total = 0

    def add(name: str, item: h5py.Dataset | h5py.Group) -> None:
        nonlocal total
        if isinstance(item, h5py.Dataset):
            total += item.nbytes

    with h5py.File(file, "r") as weights:
        weights.visititems(add)
    return total
