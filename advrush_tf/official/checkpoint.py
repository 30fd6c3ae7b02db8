"""Reads the tensors of a PyTorch checkpoint without PyTorch.

A checkpoint is a pickle, which names functions to call. It is read as the manual of
`pickle` advises in "Restricting Globals": none of those names is imported or called.
Classes of this module take their places, which make tensors of what is known and
nothing of the rest.
"""

import functools
import io
import math
import os
import pickle
import pickletools
import re
import struct
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, cast

import numpy as np

_ZIP_START = b"PK\x03\x04"
# The older format begins with a pickled number, then the pickled version 1001.
_LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."
# Where training scripts keep the state dictionary; "model" in the official search.
_PLACES = (
    *("state_dict", "model_state_dict", "model_state"),
    *("model", "net", "network"),
)
# The official search keeps the alphas beside the state dictionary, without the "s".
_TABLES = {
    f"{word}_{cell}": f"alphas_{cell}"
    for cell in ("normal", "reduce")
    for word in ("alpha", "alphas")
}
# What DataParallel, torch.compile, a model in a model, and a network behind a
# normalisation put before every name.
_PREFIXES = ("module.", "_orig_mod.", "model.", "1.")
# What zipfile raises, beside ValueError, when it reads damaged bytes.
_ZIP_DAMAGE = zipfile.BadZipFile, EOFError, OverflowError, RuntimeError, struct.error
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
# The instructions of pickle's protocol 2 that torch.save writes.
_INSTRUCTIONS = re.compile(
    "PROTO|STOP|NONE|NEW(TRUE|FALSE|OBJ)|BININT[12]?|LONG1|BINFLOAT|BINUNICODE|"
    "(SHORT_)?BINSTRING|EMPTY_(TUPLE|LIST|DICT)|MARK|TUPLE[123]?|APPENDS?|SETITEMS?|"
    "(LONG_)?BIN(PUT|GET)|GLOBAL|REDUCE|BUILD|BINPERSID"
)
# Values in a tuple, also those in tuples within it. To hash a tuple that holds another
# one twice, which does so too, and so on, would take for ever.
_LARGEST_TUPLE = 1000

_Order = Literal["<", ">"]
_Find = Callable[[str], bytes | memoryview]


class _Storage(NamedTuple):
    """A flat array that tensors are views of, stored outside of the pickle."""

    kind: str
    key: str
    length: int


class _Inert:
    """Placeholder of every unknown class and function: it does nothing."""

    def _nothing(self, *arguments: Any) -> None:
        pass

    # The pickle's instructions REDUCE, BUILD, SETITEM and APPEND call these.
    __init__ = __setstate__ = __setitem__ = append = extend = _nothing


class _Dictionary(dict):
    """Placeholder of an ordered dictionary; the file sets its entries one by one."""

    __init__ = __setstate__ = _Inert._nothing


class _Tensor(_Inert):
    """Placeholder of the function that makes a tensor, and of the tensor."""

    arguments: tuple[Any, ...] = ()

    def __init__(self, *arguments: Any):
        self.arguments = arguments


class _Parameter(_Inert):
    """Placeholder of the function that makes a parameter: it returns the tensor."""

    def __new__(cls, tensor: Any = None, *_: Any) -> Any:
        return tensor


_PLACEHOLDERS: dict[tuple[str, str], type] = {
    ("collections", "OrderedDict"): _Dictionary,
    ("torch._utils", "_rebuild_tensor"): _Tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
    ("torch._utils", "_rebuild_parameter"): _Parameter,
}


class _Unpickler(pickle.Unpickler):
    """Reads a pickle without importing what it names."""

    def __init__(self, file: BinaryIO):
        super().__init__(file, encoding="latin1")
        self.storages: list[_Storage] = []

    def find_class(self, module: str, name: str) -> Any:
        """The placeholder of a class or function; of a storage's class a str."""
        if module == "torch" and name.endswith("Storage"):
            if name not in _DTYPES:
                names = ", ".join(_DTYPES)
                raise ValueError(f"it has a storage of {name!r}; known are {names}")
            return name
        return _PLACEHOLDERS.get((module, name), _Inert)

    def persistent_load(self, pid: Any) -> _Storage:
        """Returns the storage of an identifier, and notes it."""
        match pid:
            # The older format adds None, or which part of another storage this one is.
            case ("storage", str(kind), str(key), _, int(length), *rest):
                if kind in _DTYPES and rest in ([], [None]):
                    self.storages.append(_Storage(kind, key, length))
                    return self.storages[-1]
        raise ValueError("it refers to something that is not a plain storage")


def read_checkpoint(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads the state dictionary of a checkpoint that `torch.save` wrote.

    The file holds a state dictionary, or a dictionary with one under a usual name
    ("state_dict", "model_state_dict", "network"). Both formats are read: the zip file
    of PyTorch 1.6 and later, and the older one. Nothing in the file is executed, and
    memory is bounded by its size.

    Args:
        path: the file.

    Returns:
        Read-only arrays by name, in the file's order, without the "module.",
        "_orig_mod.", "model." and "1." that all names begin with; bfloat16 as float32.
        The alphas of the official search, which are stored beside its state dictionary,
        follow as `alphas_normal` and `alphas_reduce`.

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


def _load(file: BinaryIO) -> tuple[Any, list[_Storage]]:
    """Reads one pickle, and leaves the file behind it."""
    start = file.tell()
    try:
        _check_instructions(file)
        size = file.tell() - start
        file.seek(start)
        unpickler = _Unpickler(io.BytesIO(file.read(size)))
        return unpickler.load(), unpickler.storages
    except ValueError:
        raise
    except Exception:  # The manual of pickle: any, "not necessarily limited to" some.
        raise ValueError("the instructions of its pickle are damaged") from None


def _check_instructions(file: BinaryIO) -> None:
    """Refuses instructions that are not torch.save's or need far more than their size.

    The stack is that of the pickle, with the number of values in each tuple, 1 for
    every other value and None for a mark.
    """
    stack: list[int | None] = []
    memo: dict[Any, int | None] = {}
    for opcode, argument, position in pickletools.genops(file):
        name, number = opcode.name, cast(int, argument)
        if not _INSTRUCTIONS.fullmatch(name):
            raise ValueError(
                f"its pickle holds the instruction {name}, which torch.save does not "
                "write"
            )
        if name == "MARK":
            stack.append(None)
        elif name.endswith("BINGET"):
            stack.append(memo[number])
        elif name.endswith("BINPUT"):
            # The unpickler at once makes a table of this length.
            if number > (position or 0):
                raise ValueError("the numbers of its pickle's values are damaged")
            memo[number] = stack[-1]
        else:
            _follow(opcode, stack)


def _follow(opcode: pickletools.OpcodeInfo, stack: list[int | None]) -> None:
    """Takes an instruction's arguments off the stack and puts its result there."""
    taken: list[Any] = []
    for kind in reversed(opcode.stack_before):
        if kind is pickletools.stackslice:
            while (size := stack.pop()) is not None:
                taken.append(size)
        elif kind is not pickletools.markobject:
            taken.append(stack.pop())
    total = 1 + sum(taken) if opcode.name.startswith("TUPLE") else 1
    if total > _LARGEST_TUPLE:
        raise ValueError(f"its pickle has a tuple of more than {_LARGEST_TUPLE} values")
    stack.extend([total] * len(opcode.stack_after))


def _read_legacy(data: bytes) -> dict[str, np.ndarray]:
    if not data.startswith(_LEGACY_START):
        raise ValueError("it does not begin as files of torch.save do")
    file = io.BytesIO(data)
    file.seek(len(_LEGACY_START))
    _load(file)  # Sizes and byte order of that machine; all is little-endian.
    content, storages = _load(file)
    entries = _entries(content)
    keys, _ = _load(file)
    sizes = {storage.key: _DTYPES[storage.kind].itemsize for storage in storages}
    parts = _legacy_parts(memoryview(data)[file.tell() :], keys, sizes)
    return _arrays(entries, parts.__getitem__, "<")


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

    content, _ = _load(io.BytesIO(archive.read(found[0])))
    return _arrays(_entries(content), find, ">" if big else "<")


def _arrays(
    entries: dict[str, Any], find: _Find, order: _Order
) -> dict[str, np.ndarray]:
    """Makes the arrays of a state dictionary's entries.

    Args:
        entries: tensors by name.
        find: gives the bytes of a storage by its key, or raises KeyError.
        order: "<" for little-endian bytes, ">" for big-endian ones.
    """

    @functools.cache
    def whole(kind: str, key: str) -> np.ndarray:
        try:
            return _flat(kind, find(key), order)
        except KeyError:
            raise ValueError("one of its storages is missing") from None

    return {name: _array(name, value, whole) for name, value in entries.items()}


def _flat(kind: str, raw: bytes | memoryview, order: _Order) -> np.ndarray:
    """The elements of a storage, shape (length,)."""
    dtype = _DTYPES[kind]
    array = np.frombuffer(raw, dtype.newbyteorder(order)).astype(dtype, copy=False)
    if kind == _BFLOAT16:
        array = (array.astype(np.uint32) << 16).view(np.float32)
    array.flags.writeable = False
    return array


def _entries(content: Any) -> dict[str, Any]:
    """The entries of the state dictionary, and the alphas from beside it."""
    if not isinstance(content, dict):
        raise ValueError(
            "it does not hold a dictionary; save the model's state_dict() instead of "
            "the model"
        )
    inner = [content[place] for place in _PLACES if place in content]
    found = next((value for value in inner if isinstance(value, dict)), content)
    state = {name: value for name, value in found.items() if isinstance(name, str)}
    if not any(isinstance(value, _Tensor) for value in state.values()):
        raise ValueError(
            "it has no tensors, neither by themselves nor under "
            f"{', '.join(map(repr, _PLACES))}"
        )
    for _ in _PREFIXES:
        common = _common_prefix(state)
        state = {name.removeprefix(common): value for name, value in state.items()}
    tables = {table: content[key] for key, table in _TABLES.items() if key in content}
    return {**state, **tables}


def _common_prefix(state: dict[str, Any]) -> str:
    starts = (p for p in _PREFIXES if all(name.startswith(p) for name in state))
    return next(starts, "")


def _array(
    name: str, value: Any, whole: Callable[[str, str], np.ndarray]
) -> np.ndarray:
    match value.arguments if isinstance(value, _Tensor) else ():
        case (_Storage(kind, key, length), int(offset), tuple(size), tuple(stride), *_):
            flat = whole(kind, key)
            if not 0 <= length <= len(flat):
                raise ValueError("one of its storages is too short")
            return _view(name, flat[:length], offset, size, stride)
    raise ValueError(f"entry {name!r} is not a plain tensor")


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
