import argparse
import contextlib
import io
import pathlib
import pickle
import struct
import zipfile
from collections import OrderedDict, defaultdict, deque
from pathlib import Path

import numpy as np
import pytest

from advrush_tf.official.checkpoint import read_checkpoint
from support import golden

FOLDER = Path(__file__).parents[2] / "testdata" / "checkpoints"
KINDS = ("kinds_zip.pt", "kinds_old.pt")
BLOCK = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
TYPES = ("float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}."
NO_KEYS = b"\x80\x02]."
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"


@pytest.mark.parametrize("name", KINDS)
def test_views_and_types_are_kept(name):
    state = read_checkpoint(FOLDER / name)
    expected = {
        "whole": BLOCK,
        "transposed": BLOCK.transpose(2, 0, 1),
        "strided": BLOCK[:, ::2, 1::2],
        "parameter": BLOCK[1, 2],
        "scalar": BLOCK[1, 1, 1],
        "empty": np.zeros((0, 3), np.float32),
        "float32": np.arange(6, dtype=np.float32),
        "bfloat16": np.arange(6, dtype=np.float32),
        **{kind: np.arange(6).astype(kind) for kind in TYPES},
    }
    assert set(state) == set(expected)
    for key, value in expected.items():
        assert state[key].dtype == value.dtype, key
        np.testing.assert_array_equal(state[key], value, err_msg=key)
        assert not state[key].size or not state[key].flags.writeable


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("evaluation.pth.tar", "evalnet_advrush_c4_l5_s1"),
        ("weights.pt", "evalnet_darts_v2_c4_l5_s1"),
    ],
)
def test_a_state_dictionary_in_the_files_order(name, case):
    expected = golden.group(golden.load(case), "state")
    state = read_checkpoint(FOLDER / name)
    assert list(state) == list(expected)
    for key, value in expected.items():
        np.testing.assert_array_equal(state[key], value, err_msg=key)


def _refused(tmp_path, data):
    path = tmp_path / "file.pt"
    path.write_bytes(data)
    with pytest.raises(ValueError) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(f"{path} cannot be read as a PyTorch checkpoint: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", KINDS)
def test_every_truncated_file_is_refused(tmp_path, name):
    data = (FOLDER / name).read_bytes()
    for length in (*range(0, len(data), 11), *range(len(data) - 64, len(data))):
        _refused(tmp_path, data[:length])


@pytest.mark.parametrize("name", KINDS)
def test_damage_is_a_value_error_or_other_values(tmp_path, name):
    data = (FOLDER / name).read_bytes()
    path = tmp_path / "file.pt"
    generator = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(data)
        for position in generator.integers(0, len(data), 2):
            damaged[position] = generator.integers(256)
        path.write_bytes(damaged)
        try:
            state = read_checkpoint(path)
        except ValueError:
            continue
        for value in state.values():
            value.copy()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "does not begin"),
        (b"epoch,accuracy\n1,0.5\n", "does not begin"),
        (LEGACY + b"\x80\x02cmodel\nNetwork\n)\x81}b.", "state_dict()"),
        (LEGACY + b"\x80\x02}.", "no tensors"),
        (LEGACY + b"\x80\x02}U\x05epochK\x01s.", "no tensors"),
        (LEGACY + b"\x80\x02ia\nb\n.", "INST"),
        (LEGACY + b"\x80\x02}(U\x01a)R", "exhausted"),
        (LEGACY + b"\x80\x02}h\x05.", "damaged"),
        (LEGACY + b"\x80\x02.", "damaged"),
        (LEGACY + b"\x80\x02t.", "damaged"),
        (LEGACY + b"\x80\x02R.", "damaged"),
        (LEGACY + b"\x80\x02(R.", "damaged"),
        (LEGACY + b"\x80\x02}(K\x01u.", "damaged"),
        (LEGACY + b"\x80\x04\x95" + bytes(8) + b".", "FRAME"),
        (LEGACY + b"\x80\x02X\xff\xff\xff\xff.", "expected"),
        (LEGACY + b"\x80\x02\xff", "unknown"),
    ],
)
def test_what_is_no_checkpoint_is_refused(tmp_path, data, words):
    assert words in _refused(tmp_path, data)


def _number(value):
    return b"J" + struct.pack("<i", value)


def _tuple(*values):
    return b"(" + b"".join(values) + b"t"


def _one_tensor(offset=0, size=(2,), stride=(1,), kind=b"FloatStorage", stored=4):
    """An old file with the entry "w", of a storage of `stored` floats."""
    key = b"U\x010"
    identifier = _tuple(
        b"U\x07storage", b"ctorch\n" + kind + b"\n", key, b"U\x03cpu", _number(4), b"N"
    )
    shape = [_tuple(*map(_number, numbers)) for numbers in (size, stride)]
    arguments = _tuple(identifier + b"Q", _number(offset), *shape, b"\x89", b"N")
    content = b"\x80\x02}U\x01w" + TENSOR + arguments + b"Rs."
    keys = b"\x80\x02]" + key + b"a."
    values = np.arange(stored, dtype=np.float32).tobytes()
    return LEGACY + content + keys + struct.pack("<q", stored) + values


def test_one_tensor_by_hand(tmp_path):
    path = tmp_path / "file.pt"
    path.write_bytes(_one_tensor(1, (2, 2), (1, 1)))
    np.testing.assert_array_equal(read_checkpoint(path)["w"], [[1, 2], [2, 3]])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"offset": 3}, "'w' does not fit"),
        ({"offset": -1}, "'w' has a damaged shape"),
        ({"size": (5,)}, "'w' does not fit"),
        ({"stride": (4,)}, "'w' does not fit"),
        ({"stride": (-1,)}, "'w' has a damaged shape"),
        ({"stride": ()}, "'w' has a damaged shape"),
        ({"size": (2**31 - 1,), "stride": (0,)}, "'w' does not fit"),
        ({"size": (1,) * 99, "stride": (1,) * 99}, "dimension"),
        ({"size": (0,) + (2**31 - 1,) * 9, "stride": (1,) * 10}, "too"),
        ({"kind": b"ComplexFloatStorage"}, "'ComplexFloatStorage'"),
        ({"stored": 3}, "too short"),
    ],
)
def test_a_tensor_must_lie_inside_its_storage(tmp_path, change, words):
    assert words in _refused(tmp_path, _one_tensor(**change))


def _calling(tmp_path):
    """Pickle instructions that make a file when they are carried out."""
    command = f"touch {tmp_path / 'called'}".encode()
    return b"cos\nsystem\nU" + bytes([len(command)]) + command + b"\x85R"


@pytest.mark.parametrize(
    ("form", "words"),
    [
        (b"%s.", "state_dict()"),
        (b"}U\x01w%ss.", "no tensors"),
        (b"}%sb.", "damaged"),
        (b"}U\x05model}U\x01w%sss.", "no tensors"),
        (TENSOR + b"%s\x85R.", "state_dict()"),
        (TENSOR + b"%sR.", "damaged"),
        (b"}U\x01w" + TENSOR + b"%s\x85Rs.", "'w' is not a plain tensor"),
        (b"}U\x01w%sQs.", "not a plain storage"),
        (b"}(U\x01v" + TENSOR + b")RU\x01w%su.", "'v' is not a plain tensor"),
    ],
)
def test_nothing_is_called(tmp_path, form, words):
    data = LEGACY + b"\x80\x02" + form.replace(b"%s", _calling(tmp_path)) + NO_KEYS
    assert words in _refused(tmp_path, data)
    assert not (tmp_path / "called").exists()


def _beside(extra):
    """An old file with `extra`, pickle instructions for a value, beside the state."""
    plain = _one_tensor()
    start = len(LEGACY) + 3
    extra = b"U\x01x" + extra + b"sU\nstate_dict}"
    return plain[:start] + extra + plain[start:].replace(b"Rs.", b"Rss.", 1)


@pytest.mark.parametrize(
    "place",
    ["state_dict", "model_state_dict", "model_state", "model", "net", "network"],
)
@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "_orig_mod.", "model.", "1.", "module.model.", "_orig_mod.module."],
)
def test_usual_places_and_prefixes_are_known(tmp_path, place, prefix):
    def text(value):
        return b"U" + bytes([len(value)]) + value.encode()

    data = _beside(b"N").replace(text("state_dict"), text(place), 1)
    _assert_read(tmp_path, data.replace(text("w"), text(f"{prefix}w"), 1))


def test_a_prefix_that_only_some_names_have_is_kept(tmp_path):
    path = tmp_path / "file.pt"
    plain = _one_tensor()
    entry = plain[plain.index(b"U\x01w") : plain.index(b"Rs.")] + b"Rs"
    other = entry.replace(b"U\x01w", b"U\x03" + b"1.w")
    path.write_bytes(plain.replace(entry, entry + other, 1))
    assert list(read_checkpoint(path)) == ["w", "1.w"]


def _assert_read(tmp_path, data):
    path = tmp_path / "file.pt"
    path.write_bytes(data)
    state = read_checkpoint(path)
    assert list(state) == ["w"]
    np.testing.assert_array_equal(state["w"], [0, 1])


def test_calls_beside_the_state_are_ignored(tmp_path):
    _assert_read(tmp_path, _beside(_calling(tmp_path)))
    assert not (tmp_path / "called").exists()


@pytest.mark.parametrize(
    "value",
    [
        [None, True, -3, 70_000, 2**70, 0.5, "näme", (), (1, 2, 3, 4), [[1], [()]]],
        {1: 2, "a": {"b": [False]}, (4, (5,)): 6, None: 7},
        OrderedDict({"x": 1, 2: (3,)}),
        argparse.Namespace(epochs=50, layers=[8]),
        np.float64(0.5),
        np.arange(3),
        defaultdict(list, a=[1]),
        deque([1, 2]),
        pathlib.PurePosixPath("a/b"),
        {3, 4},
        complex(1, 2),
        OrderedDict,
        len,
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_values_beside_the_state_are_ignored(tmp_path, value):
    _assert_read(tmp_path, _beside(pickle.dumps(value, protocol=2)[2:-1]))


def test_shared_and_cyclic_values_beside_the_state_are_ignored(tmp_path):
    cyclic = {"one": [1]}
    cyclic |= {"other": cyclic["one"], "self": cyclic}
    _assert_read(tmp_path, _beside(pickle.dumps(cyclic, protocol=2)[2:-1]))


@pytest.mark.parametrize(
    "name",
    [
        b"ccollections\nOrderedDict\n",
        b"ctorch\nFloatStorage\n",
        b"ctorch._utils\n_rebuild_parameter\n",
        b"cos\nsystem\n",
        TENSOR,
    ],
)
def test_a_file_cannot_change_how_the_next_one_is_read(tmp_path, name):
    path = tmp_path / "file.pt"
    change = b"}U\x08__init__NsU\targuments)s"
    for state in (change, b"N" + change + b"\x86"):
        # Of the class itself, and of what it makes.
        for form in (b"%sb", b")R%sb", b")\x81%sb", b"U\x01aNs", b"U\x01aa"):
            path.write_bytes(_beside(name + form.replace(b"%s", state)))
            with contextlib.suppress(ValueError):
                read_checkpoint(path)
    _assert_read(tmp_path, _one_tensor())


def test_deep_nesting_is_harmless(tmp_path):
    deep = b")" + b"\x85" * 100_000
    for form in (b"%s.", b"}%sK\x01s.", b"}U\x01w%ss.", b"%sQ.", b"%s)R."):
        data = LEGACY + b"\x80\x02" + form.replace(b"%s", deep) + NO_KEYS
        assert "tuple of more than 1000" in _refused(tmp_path, data)
    lists = b"]" * 100_000 + b"a" * 99_999
    assert "state_dict()" in _refused(tmp_path, LEGACY + b"\x80\x02" + lists + b".")


def test_bombs_are_refused(tmp_path):
    twice = b"".join(b"h%ch%c\x86q%c" % (n, n, n + 1) for n in range(60))
    doubling = b"}(K\x01q\x00" + twice + b"K\x02u."
    assert "tuple of more than" in _refused(tmp_path, LEGACY + b"\x80\x02" + doubling)
    # A table for so many values would take 16 GB.
    far = b"}r" + struct.pack("<I", 2**30) + b"."
    assert "values are damaged" in _refused(tmp_path, LEGACY + b"\x80\x02" + far)


def _zip(change=lambda name, data: (name, data), compression=zipfile.ZIP_STORED):
    """The zip file of all kinds, written anew with other entries."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(FOLDER / "kinds_zip.pt") as old,
        zipfile.ZipFile(buffer, "w", compression) as new,
    ):
        for name in old.namelist():
            new.writestr(*change(name, old.read(name)))
    return buffer.getvalue()


def test_big_endian_zip(tmp_path):
    def change(name, data):
        if name.endswith("/byteorder"):
            return name, b"big"
        # The order of a storage's floats and that of their bytes are both turned.
        return name, data[::-1] if name.endswith("/data/0") else data

    path = tmp_path / "file.pt"
    path.write_bytes(_zip(change))
    state = read_checkpoint(path)
    np.testing.assert_array_equal(state["whole"], BLOCK.ravel()[::-1].reshape(2, 3, 4))
    assert state["whole"].dtype.isnative


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"compression": zipfile.ZIP_DEFLATED}, "compressed"),
        ({"change": lambda name, data: (f"x{name}/y", data)}, "data.pkl"),
        ({"change": lambda name, data: (name.replace("data/0", "0"), data)}, "missing"),
        ({"change": lambda name, data: (name, data[:8])}, "not enough data"),
    ],
)
def test_other_zip_files_are_refused(tmp_path, arguments, words):
    assert words in _refused(tmp_path, _zip(**arguments))


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(OSError):
        read_checkpoint(tmp_path / "none.pt")
