import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.data import class_folders
from advrush_tf.data.augmentation import Augmentation
from advrush_tf.data.dataset import load_dataset
from advrush_tf.errors import UserError

CLASSES = ("cat", "dog", "eel")


def write(path, image):
    encode = {".jpg": tf.io.encode_jpeg, ".png": tf.io.encode_png}[path.suffix]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(np.asarray(image, np.uint8)).numpy())


def images_of(folder, count=5, shape=(8, 8, 3)):
    """Writes images whose level tells their class and their place in it."""
    for label, name in enumerate(CLASSES):
        for index in range(count):
            write(folder / name / f"{index}.png", np.full(shape, 50 * label + index))
    return folder


@pytest.fixture
def folder(tmp_path):
    images_of(tmp_path / "set" / "train")
    images_of(tmp_path / "set" / "test", 2)
    return tmp_path / "set"


def test_train_and_test_folders(folder):
    (folder / "README.md").touch()
    (folder / "train" / "cat" / ".hidden").touch()
    dataset = load_dataset(str(folder))
    assert dataset.name == str(folder) and dataset.test_split == "test"
    assert dataset.class_names == CLASSES and dataset.num_classes == 3
    assert dataset.image_shape == (8, 8, 3) and not dataset.held_back
    for examples, count in ((dataset.train, 5), (dataset.test, 2)):
        images, labels = examples.arrays()
        assert labels.tolist() == np.repeat(range(3), count).tolist()
        levels = 50 * labels + np.tile(range(count), 3)
        assert (images == levels[:, None, None, None]).all()
    assert dataset.mean == pytest.approx([52 / 255] * 3)
    assert dataset.augmentation(True) == Augmentation(1, flip=True)


@pytest.mark.parametrize("name", ["validation", "val"])
def test_a_validation_folder_takes_the_place_of_test(folder, name):
    (folder / "test").rename(folder / name)
    assert load_dataset(str(folder)).test_split == name


@pytest.mark.parametrize("place", ["", "train"])
def test_of_class_folders_alone_a_fifth_is_held_back(tmp_path, place, monkeypatch):
    images_of(tmp_path / "own" / place)
    monkeypatch.chdir(tmp_path)
    # Not a tfds set, so that the folder is meant.
    dataset = load_dataset("own")
    assert dataset.held_back and dataset.test_split == "held-back"
    assert dataset.test.labels.tolist() == [0, 1, 2]
    assert len(np.unique(dataset.train.images)) == 12
    again = load_dataset("./own", test_only=True)
    np.testing.assert_array_equal(again.test.images, dataset.test.images)


def test_tests_need_test_images_only_and_know_the_classes_of_training(folder):
    (folder / "train" / "cat" / "0.png").write_bytes(b"")
    (folder / "test" / "cat" / "0.png").rename(folder / "test" / "dog" / "9.png")
    (folder / "test" / "cat" / "1.png").unlink()
    (folder / "test" / "cat").rmdir()
    dataset = load_dataset(str(folder), test_only=True)
    assert dataset.class_names == CLASSES and len(dataset.train) == 0
    assert dataset.test.labels.tolist() == [1, 1, 1, 2, 2]


def test_middle_squares_are_averaged_where_sizes_differ(tmp_path):
    wide = np.arange(8 * 12).reshape(8, 12, 1)
    write(tmp_path / "a" / "1.png", wide)
    write(tmp_path / "b" / "1.jpg", np.full((4, 4, 1), 90))
    parts = class_folders.read_class_folders(tmp_path, image_size=2)
    square = wide[:, 2:10].reshape(2, 4, 2, 4).mean((1, 3))
    np.testing.assert_array_equal(parts.train.images[0, ..., 0], np.rint(square))
    assert (parts.train.images[1] == 90).all()


def _lone(folder):
    for name in CLASSES[1:]:
        for file in (folder / "train" / name).iterdir():
            file.unlink()
        (folder / "train" / name).rmdir()


def _emptied(folder):
    for file in (folder / "train" / "dog").iterdir():
        file.unlink()


def _add(path, *shape):
    return lambda folder: write(folder / path, np.zeros(shape))


def _cut(folder):
    path = folder / "train" / "dog" / "2.png"
    path.write_bytes(path.read_bytes()[:50])


def _deepen(folder):
    image = tf.io.encode_png(np.full((8, 8, 3), 4095, np.uint16))
    (folder / "train" / "dog" / "x.png").write_bytes(image.numpy())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_deepen, r"dog/x.png has 16 bits a channel, of which only 8"),
        (
            _add("train/dog/x.png", 8, 9, 3),
            r"dog/x.png has 8x9 .* 8x8; give --image_si",
        ),
        (_add("train/dog/x.png", 8, 8, 1), r"dog/x.png is grey and .*0.png in colour"),
        (
            _add("train/dog/x.png", 8, 8, 4),
            r"dog/x.png has 4 channels, .* transparency",
        ),
        (_add("train/x.png", 8, 8, 3), r"train/x.png lies outside of a class folder"),
        (
            _add("test/fox/x.png", 8, 8, 3),
            r"test has a class folder fox, which .*train",
        ),
        (_add("train/dog/sub/x.png", 8, 8, 3), r"dog/sub is a folder within a class"),
        (_lone, r"train has one class folder, cat, and a classifier needs two"),
        (_emptied, r"Class folder .*train/dog has no images"),
        (_cut, r"train/dog/2.png is no readable image"),
        (
            lambda f: (f / "train" / "dog" / "a.tif").touch(),
            r"a.tif is not a PNG, JPEG",
        ),
        (
            lambda f: (f / "test" / "cat" / "0.png").write_text("x"),
            r"test/cat/0.png is n",
        ),
        (_add("train/c\udcff/x.png", 8, 8, 3), r"train/c\\udcff' is not UTF-8; rename"),
        (_add("train/dog/c\udcff.png", 8, 8, 3), r"dog/c\\udcff.png' is not UTF-8"),
        (
            lambda f: images_of(f / "test", 2, (9, 9, 3)),
            r"\(8, 8, 3\) .* of test \(9, 9",
        ),
    ],
)
def test_what_is_wrong_is_named_in_one_line(folder, spoil, message):
    spoil(folder)
    with pytest.raises(UserError, match=message) as caught:
        load_dataset(str(folder))
    assert "\n" not in str(caught.value)


def test_other_folders_are_refused_in_one_line(tmp_path, folder):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match=r"has no class folders .* prepared tfds fold"):
        load_dataset(str(empty))
    with pytest.raises(UserError, match=r"is not of tfds; leave out @train"):
        load_dataset(f"{folder}@train")
    with pytest.raises(UserError, match=r"--image_size is 9, but .*0.png has 8x8"):
        load_dataset(str(folder), image_size=9)
    (folder / "train").rename(folder / ".train")
    with pytest.raises(UserError, match="no images to train with"):
        load_dataset(str(folder))
    for name in CLASSES:
        (empty / name).mkdir()
    with pytest.raises(UserError, match=r"class folders of .*empty have no images"):
        load_dataset(str(empty))
    write(empty / "cat" / "1.png", np.zeros((8, 8, 3)))
    with pytest.raises(UserError, match=r"empty/dog has no images"):
        load_dataset(str(empty))
