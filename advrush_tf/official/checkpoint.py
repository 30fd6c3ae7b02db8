"""Reads the tensors of a PyTorch checkpoint, without PyTorch and without unpickling."""

import io
import math
import os
import struct
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from advrush_tf.official.pickle_data import Call, Named, Reference, read_pickle

_ZIP_START = b"PK\x03\x04"
# The older format begins with a pickled number, then the pickled version 1001.
_LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."
# Where training scripts keep the state dictionary; "model" in the official search.
_PLACES = ("state_dict", "model", "net")
# The official search keeps the alphas beside the state dictionary, without the "s".
_TABLES = {
    f"{word}_{cell}": f"alphas_{cell}"
    for cell in ("normal", "reduce")
    for word in ("alpha", "alphas")
}
_PARALLEL = "module."
# What zipfile raises, beside ValueError, when it reads damaged bytes.
_ZIP_DAMAGE = (
    zipfile.BadZipFile,
    EOFError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    struct.error,
)
_TENSORS = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor")
_PARAMETER = "torch._utils._rebuild_parameter"
_BFLOAT16 = "BFloat16Storage"
_DTYPES: dict[str, np.dtype] = {
    "FloatStorage": np.dtype(np.float32),
    "DoubleStorage": np.dtype(np.float64),
    "HalfStorage": np.dtype(np.float16),
    _BFLOAT16: np.dtype(np.uint16),  # The upper half of a float32.
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}

_Order = Literal["<", ">"]
_Find = Callable[[str], bytes | memoryview]


def read_checkpoint(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads the state dictionary of a checkpoint that `torch.save` wrote.

    The file holds a state dictionary, or a dictionary with one under "state_dict",
    "model" or "net". Both formats are read: the zip file of PyTorch 1.6 and later, and
    the older one. Nothing in the file is executed, and memory is bounded by its size.

    Args:
        path: the file.

    Returns:
        Read-only arrays by name, in the file's order, without a "module." that all
        names begin with; bfloat16 as float32. The alphas of the official search, which
        are stored beside its state dictionary, follow as `alphas_normal` and
        `alphas_reduce`.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not such a checkpoint, or damaged.
    """
    data = Path(path).read_bytes()
    read = _read_zip if data.startswith(_ZIP_START) else _read_legacy
    try:
        return read(data)
    except ValueError as error:
        raise ValueError(
            f"{path} cannot be read as a PyTorch checkpoint: {error}"
        ) from None


def _read_legacy(data: bytes) -> dict[str, np.ndarray]:
    if not data.startswith(_LEGACY_START):
        raise ValueError("it does not begin as files of torch.save do")
    file = io.BytesIO(data)
    file.seek(len(_LEGACY_START))
    read_pickle(file)  # Sizes and byte order of that machine; all is little-endian.
    content = read_pickle(file)
    entries = _entries(content.value)
    keys = read_pickle(file).value
    kinds = [_storage_kind(reference) for reference in content.references]
    sizes = {key: _dtype(kind).itemsize for kind, key, _ in kinds}
    parts = _legacy_parts(memoryview(data)[file.tell() :], keys, sizes)
    return _arrays(entries, _Storages(parts.__getitem__, "<"))


def _legacy_parts(
    data: memoryview, keys: Any, sizes: dict[str, int]
) -> dict[str, memoryview]:
    """Takes the storages apart: each is its length, as int64, and its elements."""
    if not isinstance(keys, list) or not all(
        isinstance(key, str) and key in sizes for key in keys
    ):
        raise ValueError("its list of storages is damaged")
    parts, start = {}, 0
    for key in keys:
        length = int.from_bytes(data[start : start + 8], "little")
        end = start + 8 + length * sizes[key]
        if end > len(data):
            raise ValueError("it ends before its last storage does")
        parts[key] = data[start + 8 : end]
        start = end
    return parts


def _read_zip(data: bytes) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _check_sizes(archive, len(data))
            return _read_archive(archive)
    except _ZIP_DAMAGE as error:
        raise ValueError(f"its zip archive is damaged ({error})") from None


def _check_sizes(archive: zipfile.ZipFile, size: int) -> None:
    """Refuses an archive that holds more than its own size."""
    entries = archive.infolist()
    stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    if not stored or sum(entry.file_size for entry in entries) > size:
        raise ValueError("its zip archive is compressed, which torch.save never does")


def _read_archive(archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
    names = set(archive.namelist())
    found = [name for name in names if name.split("/")[1:] == ["data.pkl"]]
    if len(found) != 1:
        raise ValueError("its zip archive has no data.pkl in its one folder")
    folder = found[0].removesuffix("data.pkl")
    record = f"{folder}byteorder"
    big = record in names and archive.read(record) == b"big"

    def find(key: str) -> bytes:
        return archive.read(f"{folder}data/{key}")

    content = read_pickle(io.BytesIO(archive.read(found[0])))
    return _arrays(_entries(content.value), _Storages(find, ">" if big else "<"))


class _Storages:
    """The flat arrays that tensors are views of, each made once.

    Args:
        find: gives the bytes of a storage by its key, or raises KeyError.
        order: "<" for little-endian bytes, ">" for big-endian ones.
    """

    def __init__(self, find: _Find, order: _Order):
        self._find = find
        self._order = order
        self._arrays: dict[tuple[str, str], np.ndarray] = {}

    def array(self, reference: Reference) -> np.ndarray:
        """The elements of a storage, shape (length,)."""
        kind, key, length = _storage_kind(reference)
        if (kind, key) not in self._arrays:
            self._arrays[kind, key] = self._read(kind, key)
        if not 0 <= length <= len(self._arrays[kind, key]):
            raise ValueError("one of its storages is too short")
        return self._arrays[kind, key][:length]

    def _read(self, kind: str, key: str) -> np.ndarray:
        dtype = _dtype(kind)
        try:
            raw = self._find(key)
        except KeyError:
            raise ValueError("one of its storages is missing") from None
        stored = np.frombuffer(raw, dtype.newbyteorder(self._order))
        array = stored.astype(dtype, copy=False)
        if kind == _BFLOAT16:
            array = (array.astype(np.uint32) << 16).view(np.float32)
        array.flags.writeable = False
        return array


def _storage_kind(reference: Reference) -> tuple[str, str, int]:
    """Class name, key and length of a storage."""
    match reference.value:
        # The older format adds None, or which part of another storage this one is.
        case ("storage", Named(name=name), str() as key, _, int() as length) | (
            "storage",
            Named(name=name),
            str() as key,
            _,
            int() as length,
            None,
        ):
            return name.rpartition(".")[2], key, length
    raise ValueError("it refers to something that is not a plain storage")


def _dtype(kind: str) -> np.dtype:
    if kind not in _DTYPES:
        names = ", ".join(_DTYPES)
        raise ValueError(f"it has storage of the type {kind!r}; known are {names}")
    return _DTYPES[kind]


def _arrays(entries: dict[str, Any], storages: _Storages) -> dict[str, np.ndarray]:
    return {name: _array(name, value, storages) for name, value in entries.items()}


def _entries(content: Any) -> dict[str, Any]:
    """The entries of the state dictionary, and the alphas from beside it."""
    if not isinstance(content, dict):
        raise ValueError(
            "it does not hold a dictionary; save the model's state_dict() instead of "
            "the model"
        )
    inner = [content[place] for place in _PLACES if place in content]
    state = next((value for value in inner if isinstance(value, dict)), content)
    if not any(_is_call(value, *_TENSORS, _PARAMETER) for value in state.values()):
        raise ValueError(
            "it has no tensors, neither by themselves nor under "
            f"{', '.join(map(repr, _PLACES))}"
        )
    if all(name.startswith(_PARALLEL) for name in state):
        state = {name.removeprefix(_PARALLEL): value for name, value in state.items()}
    tables = {table: content[key] for key, table in _TABLES.items() if key in content}
    return {**state, **tables}


def _array(name: str, value: Any, storages: _Storages) -> np.ndarray:
    """Makes the array of one entry."""
    if _is_call(value, _PARAMETER) and isinstance(value.arguments, tuple):
        value = next(iter(value.arguments), None)
    if _is_call(value, *_TENSORS):
        match value.arguments:
            case (Reference() as reference, int() as offset, tuple(), tuple(), *_):
                size, stride = value.arguments[2:4]
                return _view(name, storages.array(reference), offset, size, stride)
    raise ValueError(f"entry {name!r} is not a plain tensor")


def _is_call(value: Any, *names: str) -> bool:
    return (
        isinstance(value, Call)
        and isinstance(value.function, Named)
        and value.function.name in names
    )


def _view(
    name: str, flat: np.ndarray, offset: int, size: Sequence[Any], stride: Sequence[Any]
) -> np.ndarray:
    """A tensor's elements in its storage; `offset` and `stride` count elements."""
    if len(size) != len(stride) or not all(
        isinstance(number, int) and number >= 0 for number in (offset, *size, *stride)
    ):
        raise ValueError(f"entry {name!r} has a damaged shape")
    if 0 in size:
        return np.zeros(size, flat.dtype)
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    # A tensor that repeats elements could be of any size.
    if last >= len(flat) or math.prod(size) > len(flat):
        raise ValueError(f"entry {name!r} does not fit into its storage")
    strides = [step * flat.itemsize for step in stride]
    return np.ndarray(size, flat.dtype, flat, offset * flat.itemsize, strides)
