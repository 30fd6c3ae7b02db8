import zipfile
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from advrush_tf.data import npz
from advrush_tf.data.dataset import load_dataset
from advrush_tf.errors import UserError


def arrays(train=6, test=3, classes=3):
    """Arrays whose images tell their labels."""
    found = {}
    for part, count in (("train", train), ("test", test)):
        labels = np.arange(count) % classes
        found[f"x_{part}"] = np.full((count, 4, 6, 3), 40, np.uint8)
        found[f"x_{part}"] += labels[:, None, None, None].astype(np.uint8)
        found[f"y_{part}"] = labels
    return found


@pytest.fixture
def load(tmp_path):
    def load(test_only=False, image_size=None, **given):
        path = tmp_path / "own.npz"
        kept = {name: array for name, array in given.items() if array is not None}
        np.savez_compressed(path, **kept)
        return load_dataset(str(path), None, image_size, test_only)

    return load


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (lambda x: x, lambda y: y),
        (lambda x: (x / 255).astype(np.float32), lambda y: y[:, None].astype(float)),
        (lambda x: x.astype(np.int64), lambda y: np.eye(3)[y]),
    ],
    ids=["bytes", "floats", "one-hot"],
)
def test_all_usual_types_are_the_same(load, images, labels):
    made = arrays()
    given = {n: (images if n[0] == "x" else labels)(a) for n, a in made.items()}
    dataset = load(**given, comment=np.array("of no meaning"))
    assert dataset.class_names == ("0", "1", "2") and dataset.num_classes == 3
    assert dataset.test_split == "test" and not dataset.held_back
    for name, examples in (("train", dataset.train), ("test", dataset.test)):
        np.testing.assert_array_equal(examples.images, made[f"x_{name}"])
        np.testing.assert_array_equal(examples.labels, made[f"y_{name}"])


def test_grey_images_need_no_axis_and_middle_squares_are_averaged(load):
    made = {n: a[..., 0] if n[0] == "x" else a for n, a in arrays().items()}
    made["x_train"][0] = np.arange(24).reshape(4, 6)
    dataset = load(**made, image_size=2)
    square = np.arange(24).reshape(4, 6)[:, 1:5].reshape(2, 2, 2, 2).mean((1, 3))
    np.testing.assert_array_equal(dataset.train.images[0, ..., 0], np.rint(square))


def test_of_a_training_pair_alone_a_fifth_is_held_back(load):
    dataset = load(**{**arrays(15), "x_test": None, "y_test": None})
    assert dataset.held_back and sorted(dataset.test.labels) == [0, 1, 2]


def test_tests_need_a_test_pair_only(load):
    made = {**arrays(), "x_train": None, "y_train": None}
    assert load(**made, test_only=True).num_classes == 3
    with pytest.raises(UserError, match="no images to train with"):
        load(**made)
    # One-hot labels know classes without test images, as training labels do.
    made["y_test"] = np.eye(5)[made["y_test"]]
    assert load(**made, test_only=True).num_classes == 5
    whole = arrays() | {"x_train": np.zeros((6, 9, 9, 9), np.uint8)}
    dataset = load(**whole, test_only=True)
    assert len(dataset.train) == 0 and dataset.image_shape == (4, 6, 3)


X = np.full((6, 4, 6, 3), 40, np.uint8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"x_test": None},
            r"holds x_train, y_test, y_train; it must hold x_train, y_tr",
        ),
        ({"x_test": None, "X_test": X}, r"holds X_test, x_train, .* Rename its arrays"),
        ({"x_train": None, "x_test": None}, "it must hold x_train"),
        (
            {"y_test": np.array([0, 1, "b"], object)},
            "y_test of .* Python objects, which",
        ),
        (
            {"x_train": np.array([X[0]] * 6 + [0], object)[:6]},
            "x_train of .* Python ob",
        ),
        ({"y_train": np.array(["a"] * 6)}, "y_train of .* whole numbers .* not string"),
        ({"y_train": np.arange(6) % 3 - 1}, r"y_train of .* not \[-1\]"),
        (
            {"y_train": np.arange(6) % 3 + 1},
            "y_train of .* no image of class 0, but of",
        ),
        ({"y_train": np.zeros(6, int)}, r"y_train of .* has one class; .* two or more"),
        (
            {"y_train": np.full(6, 10**9)},
            r"has 1,000,000,001 classes; .* counted from 0",
        ),
        ({"y_train": np.arange(6) / 2}, "y_train of .* whole numbers"),
        (
            {"y_test": np.array([0, 1, 7])},
            "y_test of .* class 7, but y_train only 0 to 2",
        ),
        ({"y_train": np.arange(5) % 3}, "x_train of .* one class per image"),
        ({"x_test": X[:0], "y_test": np.zeros(0, int)}, "y_test of .* is empty"),
        (
            {"x_train": X.astype(np.float32)},
            r"x_train of .* in \[0, 1\]; these are in ",
        ),
        ({"x_train": X.astype(int) + 250}, "x_train of .* must be in 0 to 255"),
        ({"x_train": X * np.float32("nan")}, r"x_train of .* in \[0, 1\]"),
        ({"x_train": X > 3}, "x_train of .* not bool"),
        ({"x_train": X[0]}, "x_train of .* one class per image"),
        ({"x_train": X.reshape(6, -1)}, "x_train of .* of shape"),
        ({"x_train": X.transpose(0, 3, 1, 2)}, "channels come last .*transpose"),
        ({"x_train": X[..., :1]}, r"\(4, 6, 1\) .* those of test \(4, 6, 3\)"),
        ({"image_size": 5}, "--image_size is 5, but images of x_train .* 4x6 pixels"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(load, change, message):
    with pytest.raises(UserError, match=message) as caught:
        load(**arrays() | change)
    assert "own.npz" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [0, 200, -30])
def test_a_file_that_was_cut_short_is_named(load, tmp_path, kept):
    load(**arrays())
    path = tmp_path / "own.npz"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(
        UserError, match=r"own.npz is damaged or no .npz file .* class fo"
    ):
        load_dataset(str(path))


def test_members_that_are_no_arrays_are_named(tmp_path):
    path = tmp_path / "own.npz"
    with zipfile.ZipFile(path, "w") as other:
        other.writestr("x_train", b"no array")
        with other.open("y_train.npy", "w") as member:
            np.save(member, arrays()["y_train"])
    with pytest.raises(UserError, match=r"x_train of .*own.npz is no array \(.*magic"):
        load_dataset(str(path))


def test_headers_are_checked_before_anything_is_loaded(load, monkeypatch):
    monkeypatch.setattr(npz, "_array", None)
    with pytest.raises(UserError, match=r"\(6, 4, 6, 3\) and y_train \(7,\); give one"):
        load(**arrays() | {"y_train": np.arange(7) % 3})
    # Three times 9 images of 72 bytes, and 9 labels of 8 bytes while they are checked.
    for test_only, needed in ((False, 3 * 9 * (72 + 8)), (True, 3 * (3 * 72 + 9 * 8))):
        free = SimpleNamespace(available=needed / 0.75 - 1)
        monkeypatch.setattr(psutil, "virtual_memory", lambda free=free: free)
        with pytest.raises(UserError, match=r"own.npz needs 0.0 GB; the limit is"):
            load(**arrays(), test_only=test_only)
        free.available += 2
        with pytest.raises(TypeError):  # Now it is loaded.
            load(**arrays(), test_only=test_only)


def test_a_damaged_byte_is_noticed(load, tmp_path):
    load(**arrays())
    path = tmp_path / "own.npz"
    content = bytearray(path.read_bytes())
    content[100] ^= 255
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"own.npz is damaged"):
        load_dataset(str(path))
