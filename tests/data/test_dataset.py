import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import tensorflow as tf

from advrush_tf.data import dataset as data
from advrush_tf.data.array_examples import ArrayExamples
from advrush_tf.data.augmentation import Augmentation
from advrush_tf.data.imagenet import ResizedCrop
from advrush_tf.data.streaming import StreamedExamples
from advrush_tf.errors import UserError

DIGITS = Path(data.__file__).parent / "digits"
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


def _keep(copy, *names):
    """Leaves a split for each name."""

    def rename(info):
        info["splits"] = info["splits"][: len(names)]
        for split, name in zip(info["splits"], names, strict=True):
            (copy / TRAIN_FILE.replace("train", split["name"])).rename(
                copy / TRAIN_FILE.replace("train", name)
            )
            split["name"] = name

    _edit(copy / "dataset_info.json", rename)


@pytest.mark.parametrize("only", ["train", "full"])
def test_of_a_single_split_a_fifth_is_held_back_always_the_same(copy, only):
    _keep(copy, only)
    one = data.load_dataset(str(copy))
    assert one.held_back and one.test_split == "held-back"
    assert (len(one.train), len(one.test)) == (1150, 287)
    shares = np.bincount(one.test.labels) / np.bincount(
        np.concatenate([one.train.labels, one.test.labels])
    )
    np.testing.assert_allclose(shares, 0.2, atol=0.01)
    alone = data.load_dataset(str(copy), test_only=True)
    np.testing.assert_array_equal(alone.test.images, one.test.images)


def test_tests_need_no_training_images(copy):
    _keep(copy, "test")
    with pytest.raises(
        UserError, match="no images to train with, only to test with; it ser"
    ):
        data.load_dataset(str(copy))
    dataset = data.load_dataset(str(copy), test_only=True)
    assert (len(dataset.train), len(dataset.test)) == (0, 1437)
    assert dataset.facts()["training images"] == 0


def test_training_images_are_not_read_for_tests_alone(copy):
    (copy / TRAIN_FILE).unlink()
    assert len(data.load_dataset(str(copy), test_only=True).test) == 360


def _pairs(*parts):
    """Images and labels in any order: those of several files are interleaved."""
    arrays = [part.arrays() for part in parts]
    return sorted(
        (x.tobytes(), int(y)) for part in arrays for x, y in zip(*part, strict=True)
    )


def test_splits_may_be_expressions_in_memory_and_streamed(imagenet_like, monkeypatch):
    name = f"{imagenet_like[1]}@train[:40%],train[40%:]+validation[:3]"
    whole = data.load_dataset(str(imagenet_like[1]))
    held = data.load_dataset(name)
    assert held.test_split == "train[40%:]+validation[:3]" and not held.held_back
    assert (len(held.train), len(held.test)) == (40, 61 + 3)
    assert set(_pairs(whole.train)) <= set(_pairs(held.train, held.test))
    monkeypatch.setattr(data, "_LARGEST_IN_MEMORY", 0)
    streamed = data.load_dataset(name)
    for one, other in ((held.train, streamed.train), (held.test, streamed.test)):
        assert isinstance(other, StreamedExamples)
        assert _pairs(one) == _pairs(other)


def test_the_test_part_need_not_be_given():
    dataset = data.load_dataset("digits@train[:10%]")
    assert (len(dataset.train), dataset.test_split) == (144, "test")


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ("trai", "has no split trai .*'train', 'test'.* such as train"),
        ("train[:x],test", "has no split train.:x. .*Error parsing"),
        ("train[:0%]", "Split train.:0%. of data set digits has no images"),
        ("train[:60%],train[50%:]", "have images in common; give others"),
        ("test", "Splits test and test .* have images in common"),
        ("", "after @ it must have an expression"),
        ("train,test,test", "after @ it must have an expression"),
    ],
)
def test_bad_expressions_are_refused_in_one_line(splits, message):
    with pytest.raises(UserError, match=message) as caught:
        data.load_dataset(f"digits@{splits}")
    assert "\n" not in str(caught.value)


def test_several_splits_of_other_names_must_be_given(copy):
    _keep(copy, "good", "bad")
    with pytest.raises(UserError, match=r"has the splits good, bad; .* as @good,bad"):
        data.load_dataset(str(copy))
    given = data.load_dataset(f"{copy}@good,bad")
    assert (len(given.train), len(given.test)) == (1437, 360)


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


@pytest.mark.parametrize("count", ["-5", "0"])
def test_a_count_that_cannot_be_is_refused(copy, count):
    def change(info):
        info["splits"][0]["shardLengths"] = [count]

    _edit(copy / "dataset_info.json", change)
    with pytest.raises(UserError, match=rf"has shards of .*{count}.* copy or prepare"):
        data.load_dataset(str(copy))


@pytest.mark.parametrize(
    ("classes", "message"),
    [("9", "labels outside 0 to 8"), (str(10**9), "has 1,000,000,000 classes; .*most")],
)
def test_labels_outside_the_classes_and_too_many_are_refused(copy, classes, message):
    def change(features):
        label = features["featuresDict"]["features"]["label"]
        label["classLabel"]["numClasses"] = classes

    _edit(copy / "features.json", change)
    with pytest.raises(UserError, match=message):
        data.load_dataset(str(copy))


def test_imagenet_has_the_constants_of_darts():
    dataset = _dataset("imagenet2012", np.zeros((1, 2, 2, 3), np.uint8))
    assert dataset.mean == (0.485, 0.456, 0.406)
    assert dataset.std == (0.229, 0.224, 0.225)


def test_others_have_the_moments_of_their_training_images():
    images = np.full((3, 2, 2, 1), 51, np.uint8)
    images[0] = 0
    dataset = _dataset("other", images)
    assert dataset.mean == pytest.approx((2 / 15,))
    assert dataset.std == pytest.approx((2**0.5 / 15,))


def test_augmentation_is_what_is_usual():
    dataset = _dataset("other", np.zeros((1, 32, 32, 3), np.uint8))
    assert dataset.augmentation(True, 5) == Augmentation(4, flip=True, cutout=5)
    assert dataset.augmentation(False, 5) == Augmentation(cutout=5)


def test_a_set_that_tfds_did_not_shuffle_is_ordered(imagenet_like, tmp_path):
    assert not data.load_dataset(str(imagenet_like[0])).train.ordered
    folder = shutil.copytree(imagenet_like[0], tmp_path / "copy")
    _edit(
        folder / "5.1.0" / "dataset_info.json",
        lambda info: info.update(disableShuffling=True),
    )
    dataset = data.load_dataset(str(folder), image_size=16)
    assert dataset.train.ordered and dataset.test.ordered


def test_images_of_many_sizes_are_streamed_in_one(imagenet_like):
    dataset = data.load_dataset(str(imagenet_like[0]), image_size=24)
    assert dataset.image_shape == (24, 24, 3)
    assert dataset.num_classes == 1000
    assert isinstance(dataset.train, StreamedExamples)
    assert dataset.augmentation(True, 5) == ResizedCrop(24, True, 5)
    assert dataset.augmentation(False) == ResizedCrop(24, False)
    # The test split has no labels.
    assert dataset.test_split == "validation"
    assert sorted(dataset.test.arrays()[1].tolist()) == list(range(37))
    assert len(dataset.train) == 101


def test_the_usual_size_is_224(imagenet_like):
    assert data.load_dataset(str(imagenet_like[0])).image_shape == (224, 224, 3)


def test_images_in_memory_are_averaged_over_areas():
    whole, small = (data.load_dataset("digits", image_size=size) for size in (8, 4))
    assert not whole.resampled and small.image_shape == (4, 4, 1)
    means = whole.test.images.reshape(-1, 4, 2, 4, 2, 1).mean((2, 4))
    np.testing.assert_array_equal(small.test.images, np.rint(means))
    np.testing.assert_array_equal(small.test.labels, whole.test.labels)
    # The averages vary less than the pixels.
    assert small.std < whole.std


def test_known_moments_are_those_of_the_whole_size():
    images = ArrayExamples(np.zeros((1, 16, 16, 3), np.uint8), np.zeros(1, int))
    small = data.ImageDataset("cifar10", images, images, 1, ("a",), resampled=True)
    assert small.mean == (0, 0, 0)


def test_a_size_that_cannot_be_had_is_refused(imagenet_like, monkeypatch):
    folder = str(imagenet_like[1])
    with pytest.raises(UserError, match=r"--image_size is 65, .* 64x64 pixels; give a"):
        data.load_dataset(folder, image_size=65)
    monkeypatch.setattr(data, "_LARGEST_IN_MEMORY", 0)
    with pytest.raises(
        UserError, match=r"--image_size is 32, .* streamed in their own"
    ):
        data.load_dataset(folder, image_size=32)


def test_what_is_large_is_streamed_and_has_the_same_images(imagenet_like, monkeypatch):
    folder = str(imagenet_like[1])
    held = data.load_dataset(folder)
    assert isinstance(held.train, ArrayExamples)
    monkeypatch.setattr(data, "_LARGEST_IN_MEMORY", 3 * 138 * 64 * 64 * 3 - 1)
    streamed = data.load_dataset(folder)
    assert isinstance(streamed.train, StreamedExamples)
    for one, other in zip(held.test.arrays(), streamed.test.arrays(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert streamed.mean == held.mean
    assert streamed.augmentation(True) == held.augmentation(True)


def test_a_missing_file_of_a_stream_is_named(imagenet_like, tmp_path):
    folder = shutil.copytree(imagenet_like[0], tmp_path / "copy")
    name = "imagenet2012-train.tfrecord-00002-of-00005"
    (folder / "5.1.0" / name).unlink()
    with pytest.raises(UserError, match=rf"is damaged .*{name}") as caught:
        data.load_dataset(str(folder))
    assert "\n" not in str(caught.value)


def test_other_file_formats_are_not_streamed(imagenet_like, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "_LARGEST_IN_MEMORY", 0)
    folder = shutil.copytree(imagenet_like[1], tmp_path / "copy") / "0.1.0"
    _edit(folder / "dataset_info.json", lambda info: info.update(fileFormat="riegeli"))
    with pytest.raises(UserError, match="prepared as riegeli; prepare it as tfrecord"):
        data.load_dataset(str(folder))


def test_too_large_for_memory_is_refused_before_reading(monkeypatch):
    # 1,797 images of 64 bytes, three times, against three quarters of what is free.
    needed = 3 * 1797 * 64
    free = SimpleNamespace(available=needed / 0.75 - 100)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    with pytest.raises(UserError, match=r"digits needs 0.0 GB.*75% of the free memory"):
        data.load_dataset("digits")
    free.available = needed / 0.75 + 100
    assert len(data.load_dataset("digits").train.images) == 1437
