import hashlib
import json
import os
from types import MappingProxyType

import numpy as np
import pytest

from advrush_tf.errors import UserError
from advrush_tf.files import (
    expanded,
    json_copy,
    parse_json,
    read_arrays,
    read_json,
    replacing,
    write_arrays,
    write_json,
    write_text,
)
from support.bits import flip_faults, header_bits, random_bits, same


def test_a_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert expanded("~/a") == "/home/me/a"
    assert expanded("~") == "/home/me"
    for path in ("a/~", "./~a", "", "/", "no/such"):
        assert expanded(path) == path


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("~nosuchuser/x", "no user's home folder"),
        ("x" * 300, "File name too long"),
        ("loop/x", "symbolic links"),
        ("a\0b", "null byte"),
        ("a\udcff", "UTF-8"),
    ],
    ids=lambda value: ascii(value)[:9],
)
def test_paths_where_nothing_can_ever_be(path, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.symlink("loop", "loop")
    with pytest.raises(UserError, match=words):
        expanded(path)


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "one")
    write_text(path, "two")
    assert path.read_text() == "two"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_writers_of_one_file_leave_one_whole_file(tmp_path):
    path = tmp_path / "a.bin"
    with replacing(path) as one, replacing(path) as other:
        one.write(b"1" * 9)
        other.write(b"2" * 5)
    assert path.read_bytes() == b"1" * 9
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_name_may_be_as_long_as_names_can_be(tmp_path):
    write_text(tmp_path / ("x" * 255), "x")
    assert os.listdir(tmp_path) == ["x" * 255]


def test_json_is_written_and_read(tmp_path):
    value = {"a": [1, [2.5, None]], "b": {"c": "x", "d": []}, "e": True}
    path = tmp_path / "a.json"
    write_json(path, value)
    written = json.loads(path.read_text())
    canonical = json.dumps(value, sort_keys=True).encode()
    digest = hashlib.sha256(canonical).hexdigest()
    assert written == value | {"checksum": f"sha256:{digest}"}
    assert read_json(path) == value
    # However it is laid out; without a checksum, as it is.
    path.write_text(json.dumps(written))
    assert read_json(path) == value
    path.write_text(json.dumps(value | {"e": False}))
    assert read_json(path) == value | {"e": False}


def test_flipped_bits_of_json_are_noticed_or_harmless(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"accuracy": 0.0625, "n": [1, -20], "e": True, "x": "1e5 \u00e9"})
    # A checksum whose name is damaged is one more entry beside the right ones.
    names = ("accuracy", "n", "e", "x")
    bits = range(0, 8 * path.stat().st_size, 5)
    faults = flip_faults(path, lambda path: [read_json(path)[n] for n in names], bits)
    assert not any(faults)


def test_flipped_bits_of_arrays_are_noticed_or_harmless(tmp_path):
    path, rng = tmp_path / "a.npz", np.random.default_rng(0)
    arrays = {
        "images": rng.random((20, 3)).astype(np.float32),
        "notes": np.asarray('{"epoch": 3}'),
    }
    write_arrays(path, **arrays)
    assert same(read_arrays(path), arrays)
    bits = [*header_bits(path)[::5], *random_bits(path, 200)]
    assert not any(flip_faults(path, read_arrays, bits))


def test_arrays_that_cannot_be_read_are_not_damaged(tmp_path):
    with pytest.raises(IsADirectoryError):
        read_arrays(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "Expecting"),
        ("[" * 100_000 + "]" * 100_000, "more than 50 levels"),
        ('{"a": ' * 300 + "1" + "}" * 300, "more than 50 levels"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "twice"),
        ('[{"score": Infinity}]', "Infinity is not a finite number"),
        ("NaN", "NaN is not a finite number"),
        ("-1e999", "-1e999 is not a finite number"),
        (f"[1{'0' * 400}]", r"10+\.\.\. is too large a number"),
        ("9" * 5000, "Exceeds the limit"),
    ],
    ids=lambda text: text[:9],
)
def test_what_is_no_json_that_can_be_worked_with(text, words, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=words):
        read_json(tmp_path / "a.json")


def test_json_is_nested_as_deeply_as_can_be_worked_with():
    deep = '{"a": [' * 25 + "1.5, -7" + "]}" * 25
    assert json.dumps(parse_json(deep)) == deep


def test_a_copy_shares_nothing_with_its_source():
    source = {"a": [1, [2.5, None]], "b": MappingProxyType({"c": (True, "x")})}
    found = json_copy(source)
    source["a"][1][0] = 7
    assert found == {"a": [1, [2.5, None]], "b": {"c": [True, "x"]}}


def test_arrays_and_their_scalars_count_as_lists_and_numbers():
    table = np.array([[1, 2], [3, 4]], np.float32)
    found = json_copy({"table": table, "one": np.int64(1)})
    assert found == {"table": [[1.0, 2.0], [3.0, 4.0]], "one": 1}


@pytest.mark.parametrize("value", [object(), {1, 2}, float("nan"), {(1, 2): 3}])
def test_what_json_cannot_hold_is_refused(value):
    with pytest.raises(ValueError, match="JSON cannot hold the value"):
        json_copy({"x": value})
