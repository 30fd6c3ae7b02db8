import io
import pickle
from collections import OrderedDict

import numpy as np
import pytest

from advrush_tf.official.pickle_data import Call, Named, Reference, read_pickle


def _read(data):
    return read_pickle(io.BytesIO(data))


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -3,
        70_000,
        2**70,
        0.5,
        "näme",
        (),
        (1, 2, 3, 4),
        [[1], [], (2, 3)],
        {"a": 1, "b": {"c": [None, False]}},
        OrderedDict(x=1, y=(2,)),
    ],
)
def test_plain_values_come_back(value):
    assert _read(pickle.dumps(value, protocol=2)).value == value


def test_shared_and_cyclic_values_stay_so():
    shared = [1]
    cyclic = {"one": shared, "other": shared}
    cyclic["self"] = cyclic
    value = _read(pickle.dumps(cyclic, protocol=2)).value
    assert value["one"] is value["other"]
    assert value["self"] is value


def test_other_keys_than_text_are_left_out():
    assert _read(pickle.dumps({1: 2, "a": 3, (4,): 5}, protocol=2)).value == {"a": 3}


def test_calls_are_data():
    value = _read(b"\x80\x02cos\nsystem\nU\x02ls\x85R.").value
    assert isinstance(value, Call)
    assert isinstance(value.function, Named)
    assert value.function.name == "os.system"
    assert value.arguments == ("ls",)


def test_an_objects_state_and_contents_are_dropped():
    for value in (np.float64(0.5), OrderedDict, {3, 4}, complex(1, 2)):
        found = _read(pickle.dumps([value, 7], protocol=2)).value
        assert isinstance(found[0], Call | Named)
        assert found[1] == 7


def test_references_are_listed():
    found = _read(b"\x80\x02](K\x01QK\x02Qe.")
    assert [reference.value for reference in found.references] == [1, 2]
    assert all(isinstance(value, Reference) for value in found.value)


def test_the_file_is_left_behind_the_pickle():
    file = io.BytesIO(pickle.dumps(1, protocol=2) + b"rest")
    read_pickle(file)
    assert file.read() == b"rest"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "exhausted"),
        (b"\x80\x02.", "damaged"),
        (b"\x80\x02h\x01.", "damaged"),
        (b"\x80\x02t.", "damaged"),
        (b"\x80\x02R.", "damaged"),
        (b"\x80\x02}(K\x01u.", "argument"),
        (b"\x80\x02(ios\nsystem\n.", "INST"),
        (b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00.", "FRAME"),
        (b"\x80\x02X\xff\xff\xff\xff.", "expected"),
        (b"\xff", "unknown"),
    ],
)
def test_damage_is_one_error(data, words):
    with pytest.raises(ValueError, match=words):
        _read(data)
