import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import tensorflow as tf

from advrush_tf import data
from advrush_tf.array_examples import ArrayExamples
from advrush_tf.errors import UserError

DIGITS = Path(__file__).resolve().parent.parent / "testdata" / "digits"
TRAIN_FILE = "digits-train.tfrecord-00000-of-00001"


def _dataset(name, train_images):
    labels = np.zeros(len(train_images), np.int32)
    examples = ArrayExamples(train_images, labels)
    return data.ImageDataset(name, examples, examples, 2, ("a", "b"))


@pytest.fixture
def copy(tmp_path):
    folder = tmp_path / "digits" / "1.0.0"
    shutil.copytree(DIGITS / "1.0.0", folder)
    return folder


def _edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_digits_facts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    digits = data.load_dataset("digits")
    assert digits.name == "digits"
    assert digits.train.images.shape == (1437, 8, 8, 1)
    assert digits.test.images.shape == (360, 8, 8, 1)
    assert digits.train.images.dtype == digits.test.images.dtype == np.uint8
    assert digits.train.labels.shape == (1437,)
    assert digits.test.labels.shape == (360,)
    assert digits.train.labels.dtype == digits.test.labels.dtype == np.int32
    assert digits.num_classes == 10
    assert digits.class_names == tuple("0123456789")
    assert digits.image_shape == (8, 8, 1)
    assert (digits.train.images.min(), digits.train.images.max()) == (0, 255)


def test_digits_are_those_of_scikit_learn():
    datasets = pytest.importorskip("sklearn.datasets")
    pixels, labels = datasets.load_digits(return_X_y=True)
    expected = np.column_stack([np.rint(pixels * 255 / 16), labels]).astype(int)
    digits = data.load_dataset("digits")
    images = np.concatenate([digits.train.images, digits.test.images])
    found = np.concatenate([digits.train.labels, digits.test.labels])
    found = np.column_stack([images.reshape(-1, 64), found])
    assert sorted(found.tolist()) == sorted(expected.tolist())


def test_digits_are_split_evenly():
    digits = data.load_dataset("digits")
    train = np.bincount(digits.train.labels)
    shares = train / (train + np.bincount(digits.test.labels))
    np.testing.assert_allclose(shares, 1437 / 1797, atol=0.004)


def test_images_are_read_in_the_order_of_the_files():
    digits = data.load_dataset(str(DIGITS))
    records = tf.data.TFRecordDataset(str(DIGITS / "1.0.0" / TRAIN_FILE))
    for index, record in enumerate(records.as_numpy_iterator()):
        feature = tf.train.Example.FromString(record).features.feature
        if index in (0, 1, 700, 1436):
            image = tf.io.decode_png(feature["image"].bytes_list.value[0])
            np.testing.assert_array_equal(digits.train.images[index], image)
        assert digits.train.labels[index] == feature["label"].int64_list.value[0]


def test_mean_and_std_match_numpy():
    images = np.random.default_rng(0).integers(0, 256, (50, 5, 4, 3), np.uint8)
    images[..., 1] //= 3
    dataset = _dataset("other", images)
    unit = images.astype(np.float64) / 255
    np.testing.assert_allclose(dataset.mean, unit.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(dataset.std, unit.std((0, 1, 2)), rtol=1e-12)


def test_std_of_a_constant_channel_is_one():
    dataset = _dataset("other", np.full((3, 2, 2, 1), 51, np.uint8))
    assert dataset.mean == pytest.approx((0.2,))
    assert dataset.std == (1.0,)


def test_cifar10_has_the_constants_of_darts():
    dataset = _dataset("cifar10", np.zeros((1, 2, 2, 3), np.uint8))
    assert dataset.mean == (0.49139968, 0.48215827, 0.44653124)
    assert dataset.std == (0.24703233, 0.24348505, 0.26158768)


def test_validation_stands_in_for_test(copy):
    def rename(info):
        info["splits"][1]["name"] = "validation"

    _edit(copy / "dataset_info.json", rename)
    name = "digits-{}.tfrecord-00000-of-00001"
    (copy / name.format("test")).rename(copy / name.format("validation"))
    expected = data.load_dataset("digits").test.images
    np.testing.assert_array_equal(data.load_dataset(str(copy)).test.images, expected)


@pytest.mark.parametrize(
    ("kept", "message"),
    [(0, "has the splits train; it needs"), (1, "has the splits test; it needs")],
)
def test_missing_split_is_refused(copy, kept, message):
    def keep_one(info):
        info["splits"] = [info["splits"][kept]]

    _edit(copy / "dataset_info.json", keep_one)
    with pytest.raises(UserError, match=message):
        data.load_dataset(str(copy))


def _truncate(folder):
    content = (folder / TRAIN_FILE).read_bytes()
    (folder / TRAIN_FILE).write_bytes(content[: len(content) // 2])


def _cut_between_records(folder):
    path = str(folder / TRAIN_FILE)
    records = list(tf.data.TFRecordDataset(path).take(1000).as_numpy_iterator())
    with tf.io.TFRecordWriter(path) as writer:
        for record in records:
            writer.write(record)


def _break_an_image(folder):
    path = str(folder / TRAIN_FILE)
    records = list(tf.data.TFRecordDataset(path).as_numpy_iterator())
    example = tf.train.Example.FromString(records[3])
    example.features.feature["image"].bytes_list.value[0] = b"no PNG"
    records[3] = example.SerializeToString()
    with tf.io.TFRecordWriter(path) as writer:
        for record in records:
            writer.write(record)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (_truncate, TRAIN_FILE),
        (lambda folder: (folder / TRAIN_FILE).unlink(), TRAIN_FILE),
        (_cut_between_records, "1.0.0"),
        (_break_an_image, "1.0.0"),
    ],
    ids=["truncated", "missing", "cut", "image"],
)
def test_damaged_file_is_named(copy, damage, named):
    damage(copy)
    with pytest.raises(UserError, match=r"is damaged at .*; delete") as caught:
        data.load_dataset(str(copy))
    assert f"{named} (" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_labels_outside_the_classes_are_refused(copy):
    def fewer(features):
        label = features["featuresDict"]["features"]["label"]
        label["classLabel"]["numClasses"] = "9"

    _edit(copy / "features.json", fewer)
    with pytest.raises(UserError, match="labels outside 0 to 8"):
        data.load_dataset(str(copy))


def test_too_large_for_memory_is_refused_before_reading(monkeypatch):
    # 1,797 images of 64 bytes, three times, against three quarters of what is free.
    needed = 3 * 1797 * 64
    free = SimpleNamespace(available=needed / 0.75 - 100)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    with pytest.raises(UserError, match=r"digits needs 0.0 GB.*75% of the free memory"):
        data.load_dataset("digits")
    free.available = needed / 0.75 + 100
    assert len(data.load_dataset("digits").train.images) == 1437
