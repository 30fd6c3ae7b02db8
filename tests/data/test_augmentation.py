import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.data.augmentation import Augmentation, Draws, to_unit_range

SHAPE = (64, 9, 7, 3)
SEED = tf.constant([3, 5], tf.int64)


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(1, 256, SHAPE, np.uint8)


def _numpy(draws):
    return Draws(*(np.asarray(draw) for draw in draws))


def _unit(images):
    return images * np.float32(1 / 255)


def test_nothing_asked_for_changes_nothing(images):
    augmentation = Augmentation()
    result = augmentation.apply(images, augmentation.draw(SEED, SHAPE))
    assert result.dtype == tf.float32
    np.testing.assert_array_equal(result, _unit(images))


def test_crop_is_that_of_numpy(images):
    augmentation = Augmentation(crop_padding=2)
    draws = augmentation.draw(SEED, SHAPE)
    result = augmentation.apply(images, draws)
    padded = np.pad(images, [(0, 0), (2, 2), (2, 2), (0, 0)])
    for index, (row, column, mirrored, _, _) in enumerate(np.stack(draws).T):
        expected = padded[index, row : row + 9, column : column + 7]
        np.testing.assert_array_equal(result[index], _unit(expected))
        assert not mirrored
    for offsets in _numpy(draws)[:2]:
        assert set(offsets) == {0, 1, 2, 3, 4}


def test_crop_is_taken_before_the_flip(images):
    augmentation = Augmentation(crop_padding=1, flip=True)
    draws = augmentation.draw(SEED, SHAPE)
    result = augmentation.apply(images, draws)
    padded = np.pad(images, [(0, 0), (1, 1), (1, 1), (0, 0)])
    for index, (row, column, mirrored, _, _) in enumerate(np.stack(draws).T):
        expected = padded[index, row : row + 9, column : column + 7]
        if mirrored:
            expected = expected[:, ::-1]
        np.testing.assert_array_equal(result[index], _unit(expected))


def test_about_half_is_mirrored(images):
    mirrored = _numpy(Augmentation(flip=True).draw(SEED, (4000, 9, 7, 3))).mirrored
    assert set(mirrored) == {0, 1}
    assert abs(mirrored.mean() - 0.5) < 0.03


@pytest.mark.parametrize("side", [1, 4, 5])
@pytest.mark.parametrize("mean", [None, (0.1, 0.2, 0.3)])
def test_cutout_is_that_of_numpy(images, side, mean):
    augmentation = Augmentation(cutout=side)
    draws = augmentation.draw(SEED, SHAPE)
    result = augmentation.apply(images, draws, mean)
    colour = np.float32([0, 0, 0] if mean is None else mean)
    for index, (_, _, _, row, column) in enumerate(np.stack(draws).T):
        expected = _unit(images[index])
        top, left = row - side // 2, column - side // 2
        expected[max(top, 0) : top + side, max(left, 0) : left + side] = colour
        np.testing.assert_array_equal(result[index], expected)
    assert set(_numpy(draws).centre_rows) == set(range(9))
    assert set(_numpy(draws).centre_columns) == set(range(7))


def test_offsets_are_uniform_and_independent():
    draws = _numpy(Augmentation(crop_padding=1).draw(SEED, (9000, 8, 8, 1)))
    pairs = np.bincount(3 * draws.rows + draws.columns, minlength=9)
    # 1000 expected in each of the 9 cells, with a standard deviation of 30.
    assert np.abs(pairs - 1000).max() < 150


def test_seed_decides(images):
    augmentation = Augmentation(crop_padding=2, flip=True, cutout=3)

    def run(seed):
        draws = augmentation.draw(tf.constant(seed, tf.int64), SHAPE)
        return augmentation.apply(images, draws).numpy()

    np.testing.assert_array_equal(run([1, 2]), run([1, 2]))
    assert (run([1, 2]) != run([1, 3])).any()
    assert (run([1, 2]) != run([2, 2])).any()


def test_traced_is_eager(images):
    augmentation = Augmentation(crop_padding=2, flip=True, cutout=3)
    draws = augmentation.draw(SEED, SHAPE)
    traced = tf.function(augmentation.apply)(tf.constant(images), draws)
    np.testing.assert_array_equal(traced, augmentation.apply(images, draws))


@pytest.mark.parametrize(
    ("name", "shape", "padding", "flip"),
    [
        ("cifar10", (32, 32, 3), 4, True),
        ("cifar100", (32, 32, 3), 4, True),
        ("svhn_cropped", (32, 32, 3), 4, False),
        ("fashion_mnist", (28, 28, 1), 4, True),
        ("mnist", (28, 28, 1), 4, False),
        ("digits", (8, 8, 1), 1, False),
        ("unheard_of", (64, 16, 3), 2, True),
        ("unheard_of", (224, 224, 3), 4, True),
    ],
)
def test_usual_augmentation(name, shape, padding, flip):
    expected = Augmentation(crop_padding=padding, flip=flip, cutout=0)
    assert Augmentation.for_dataset(name, shape) == expected


@pytest.mark.parametrize("field", ["crop_padding", "cutout"])
def test_negative_pixels_are_refused(field):
    with pytest.raises(ValueError, match=f"{field} must be 0 or more pixels, not -1"):
        Augmentation(**{field: -1})


@pytest.mark.parametrize("field", ["crop_padding", "cutout"])
def test_as_large_as_the_image_is_refused(field):
    Augmentation(**{field: 7}).check((9, 8, 1))
    with pytest.raises(ValueError, match=f"{field} must be below .* 8 pixels, not 8"):
        Augmentation(**{field: 8}).check((9, 8, 1))


def test_usual_augmentation_checks_the_cutout():
    with pytest.raises(ValueError, match="cutout must be below"):
        Augmentation.for_dataset("digits", (8, 8, 1), cutout=16)


def test_unit_range_is_that_of_numpy_and_never_above_one():
    levels = np.arange(256, dtype=np.uint8)
    result = to_unit_range(levels).numpy()
    np.testing.assert_allclose(result, levels / 255, rtol=1e-7)
    assert (result.min(), result.max()) == (0, 1)
    np.testing.assert_array_equal(tf.function(to_unit_range)(levels), result)
