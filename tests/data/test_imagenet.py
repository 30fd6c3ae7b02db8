import colorsys
import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from advrush_tf.data.augmentation import Augmentation, to_unit_range
from advrush_tf.data.imagenet import (
    ResizedCrop,
    centre_crops,
    decode,
    jittered,
    random_box,
)

SEED = tf.constant([3, 4])


def _picture(height, width):
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin(rows / 7), np.cos(columns / 5), np.sin((rows + columns) / 9)]
    return np.rint(127.5 * (1 + np.stack(waves, -1))).astype(np.uint8)


def _png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def test_images_of_one_size_are_decoded():
    images = np.stack([_picture(6, 5), _picture(6, 5)[::-1]])
    decoded = decode(tf.constant([_png(image) for image in images]), (6, 5, 3))
    np.testing.assert_array_equal(decoded, images)
    assert decode(tf.zeros(0, tf.string), (6, 5, 3)).shape == (0, 6, 5, 3)


@pytest.mark.parametrize(
    ("height", "width"), [(60, 90), (81, 64), (83, 64), (64, 64), (20, 24)]
)
def test_the_middle_is_that_of_pillow(height, width):
    image = _picture(height, width)
    got = centre_crops(tf.constant([_png(image)]), 56)[0].numpy()
    # The short side gets 64 pixels, where the middle has 56.
    scale = 64 / min(height, width)
    sides = int(height * scale), int(width * scale)
    resized = Image.fromarray(image).resize(sides[::-1], Image.Resampling.BILINEAR)
    # torchvision's CenterCrop rounds halves as Python does, to the even pixel.
    top, left = (round((side - 56) / 2) for side in sides)
    expected = np.asarray(resized)[top : top + 56, left : left + 56]
    assert got.dtype == np.uint8
    np.testing.assert_allclose(got.astype(int), expected, atol=2)


def test_grey_images_get_three_channels():
    grey = _picture(30, 40)[..., 0]
    got = centre_crops(tf.constant([_png(grey)]), 16).numpy()
    assert got.shape == (1, 16, 16, 3)
    np.testing.assert_array_equal(got[..., 0], got[..., 2])


@tf.function
def _of_many_seeds(function, count):
    seeds = tf.random.split(SEED, count)
    kinds = tf.nest.map_structure(lambda made: made.dtype, function(seeds[0]))
    return tf.map_fn(function, seeds, fn_output_signature=kinds)


def _boxes(height, width, count):
    """Top, left, height and width of random parts, (4, count)."""
    shape = tf.constant([height, width, 3])
    begin, size = _of_many_seeds(lambda seed: random_box(shape, seed), count)
    assert (begin.numpy()[:, 2] == 0).all()
    assert (size.numpy()[:, 2] == -1).all()
    return np.concatenate([begin[:, :2], size[:, :2]], 1).T


def test_random_parts_are_spread_as_they_should_be():
    height, width = 300, 400
    top, left, heights, widths = _boxes(height, width, 4000)
    assert min(top.min(), left.min()) >= 0
    assert (top + heights).max() <= height
    assert (left + widths).max() <= width
    share, ratio = heights * widths / (height * width), widths / heights
    # To within the rounding to pixels.
    assert 0.075 < share.min() < 0.1
    assert 0.95 < share.max() <= 1
    assert 0.73 < ratio.min() < 0.77
    assert 1.31 < ratio.max() < 1.36
    # Small parts always fit, and tf.image draws their sides evenly.
    small = share[share < 0.5]
    middle = (0.08**0.5 + 0.5**0.5) / 2
    assert np.mean(small < middle**2) == pytest.approx(0.5, abs=0.05)
    assert np.mean(ratio[share < 0.5]) == pytest.approx((3 / 4 + 4 / 3) / 2, abs=0.03)
    # Where there is room, any place is as likely.
    for start, side, whole in ((top, heights, height), (left, widths, width)):
        room = whole - side
        places = start[room > 50] / room[room > 50]
        assert places.mean() == pytest.approx(0.5, abs=0.02)
        assert places.std() == pytest.approx(12**-0.5, abs=0.02)


@pytest.mark.parametrize("sides", [(1000, 20), (20, 1000), (1, 1)])
def test_without_a_part_that_fits_all_is_taken(sides):
    boxes = _boxes(*sides, 50).T
    whole = [0, 0, *sides]
    # A part of 8 percent of the area and more is a strip, which has no such ratio.
    assert (boxes == whole).all()


def _colours(image, count=2000):
    image = tf.constant(image, tf.float32)
    got = _of_many_seeds(lambda seed: jittered(image, seed), count).numpy()
    assert got.min() >= 0
    assert got.max() <= 1
    return got


def _assert_uniform(values, low, high):
    span = high - low
    assert low - 1e-4 <= values.min() < low + 0.01 * span
    assert high - 0.01 * span < values.max() <= high + 1e-4
    # With 3 standard errors and more, of 2,000 draws.
    assert values.mean() == pytest.approx((low + high) / 2, abs=0.03 * span)
    assert values.std() == pytest.approx(span / 12**0.5, rel=0.05)


def test_brightness_saturation_and_hue_fill_their_ranges():
    # Of one colour, whose contrast is none: value 0.5, saturation 0.2, hue 0.
    pixels = _colours([[[0.5, 0.4, 0.4]]])[:, 0, 0]
    hue, saturation, value = np.array([colorsys.rgb_to_hsv(*rgb) for rgb in pixels]).T
    brighter = value - 0.5
    factor = saturation / (0.1 / value)
    turned = (hue + 0.5) % 1 - 0.5
    _assert_uniform(brighter, -0.4, 0.4)
    _assert_uniform(factor, 0.6, 1.4)
    _assert_uniform(turned, -0.2, 0.2)
    together = np.corrcoef([brighter, factor, turned])
    assert np.abs(together - np.eye(3)).max() < 0.08


def test_contrast_fills_its_range():
    # Two greys, so near to each other that neither is ever clipped.
    image = np.full((1, 2, 3), 0.5)
    image[0, 0] -= 0.05
    image[0, 1] += 0.05
    pixels = _colours(image)
    np.testing.assert_allclose(pixels.std(-1), 0, atol=1e-6)
    dark, light = pixels[:, 0, :, 0].T
    _assert_uniform((light - dark) / 0.1, 0.6, 1.4)


def test_a_batch_is_cropped_jittered_mirrored_and_blotted_as_drawn():
    image, augmentation = _picture(50, 70), ResizedCrop(16, cutout=4)
    draws, mean = augmentation.draw(SEED, (6, 16, 16, 3)), (0.1, 0.2, 0.3)
    got = augmentation.apply(tf.constant([_png(image)] * 6), draws, mean).numpy()

    def by_hand(change):
        images = []
        for crop, colours in zip(draws.crops, draws.colours, strict=True):
            part = tf.slice(image, *random_box(tf.constant(image.shape), crop)).numpy()
            side = Image.fromarray(part).resize((16, 16), Image.Resampling.BILINEAR)
            small = change(tf.constant(np.asarray(side) / 255, tf.float32), colours)
            images.append(np.rint(255 * np.asarray(small)).astype(np.uint8))
        after = Augmentation(flip=True, cutout=4)
        return after.apply(np.stack(images), draws.after, mean).numpy()

    np.testing.assert_allclose(got, by_hand(jittered), atol=5 / 255)
    assert len(np.unique(draws.after.mirrored)) == 2
    plain = by_hand(lambda small, colours: small)
    assert (np.abs(got - plain).mean((1, 2, 3)) > 0.02).all()


def test_without_chance_the_middle_is_taken():
    encoded = tf.constant([_png(_picture(50, 70))] * 3)
    plain = ResizedCrop(16, random=False)
    draws = plain.draw(SEED, (3, 16, 16, 3))
    expected = to_unit_range(centre_crops(encoded, 16))
    np.testing.assert_array_equal(plain.apply(encoded, draws), expected)


def test_a_cutout_that_does_not_fit_is_refused():
    for cutout in (-1, 16):
        with pytest.raises(ValueError, match="cutout must be"):
            ResizedCrop(16, cutout=cutout)
