import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from advrush_tf.data.augmentation import Augmentation, to_unit_range
from advrush_tf.data.colour_jitter import Jitter
from advrush_tf.data.imagenet import (
    ResizedCrop,
    centre_crops,
    decode,
    random_part,
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


@pytest.mark.parametrize(("height", "width"), [(60, 90), (81, 64), (64, 64), (20, 24)])
def test_the_middle_is_that_of_pillow(height, width):
    image = _picture(height, width)
    got = centre_crops(tf.constant([_png(image)]), 56)[0].numpy()
    # The short side gets 64 pixels, where the middle has 56.
    scale = 64 / min(height, width)
    sides = int(height * scale), int(width * scale)
    resized = Image.fromarray(image).resize(sides[::-1], Image.Resampling.BILINEAR)
    top, left = ((side - 56) // 2 for side in sides)
    expected = np.asarray(resized)[top : top + 56, left : left + 56]
    assert got.dtype == np.uint8
    np.testing.assert_allclose(got.astype(int), expected, atol=2)


def test_grey_images_get_three_channels():
    grey = _picture(30, 40)[..., 0]
    got = centre_crops(tf.constant([_png(grey)]), 16).numpy()
    assert got.shape == (1, 16, 16, 3)
    np.testing.assert_array_equal(got[..., 0], got[..., 2])


def _parts(sides, count):
    draws = ResizedCrop(8).draw(SEED, (count, 8, 8, 3))
    return np.stack(
        [
            random_part(tf.constant(sides), *drawn)
            for drawn in zip(draws.parts, draws.places, strict=True)
        ]
    )


def test_random_parts_are_spread_as_they_should_be():
    height, width = 300, 400
    top, left, heights, widths = _parts((height, width), 400).T
    assert min(top.min(), left.min()) >= 0
    assert (top + heights).max() <= height
    assert (left + widths).max() <= width
    share, ratio = heights * widths / (height * width), widths / heights
    assert share.min() > 0.07
    assert ratio.min() > 0.74
    assert ratio.max() < 1.35
    # Small areas always fit: of those the smaller half are as many as the larger.
    small = share[share < 0.5]
    assert np.mean(small < 0.29) == pytest.approx(0.5, abs=0.1)
    assert np.mean(ratio[share < 0.5] < 1) == pytest.approx(0.5, abs=0.1)
    # Where there is room, any place is as likely.
    room = height - heights
    assert np.mean(top[room > 50] / room[room > 50]) == pytest.approx(0.5, abs=0.06)


def test_the_first_part_that_fits_is_taken():
    parts = np.full((10, 2), 0.999, np.float32)
    # The whole area and the widest ratio do not fit a square; a ninth of the range of
    # areas at the middle ratio does: 0.08 + 0.92 / 9 = 0.1822 of 90 * 90.
    parts[4] = 1 / 9, 0.5
    part = random_part(tf.constant([90, 90]), tf.constant(parts), [0.0, 0.999])
    side = round((0.08 + 0.92 / 9) ** 0.5 * 90)
    assert part.numpy().tolist() == [0, 90 - side, side, side]


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        ((100, 20), [36, 0, 27, 20]),
        ((20, 100), [0, 36, 20, 27]),
        ((21, 20), [0, 0, 21, 20]),
    ],
)
def test_without_one_that_fits_the_middle_is_taken(sides, expected):
    widest = [0.999, 0.999] if sides[0] > sides[1] else [0.999, 0.0]
    parts = tf.constant([widest] * 10)
    part = random_part(tf.constant(sides), parts, tf.constant([0.9, 0.9]))
    assert part.numpy().tolist() == expected


def test_a_batch_is_cropped_jittered_mirrored_and_blotted_as_drawn():
    image, augmentation = _picture(50, 70), ResizedCrop(16, cutout=4)
    draws = augmentation.draw(SEED, (6, 16, 16, 3))
    still = Jitter(tf.zeros_like(draws.jitter.amounts), draws.jitter.order)
    draws = draws._replace(jitter=still)
    mean = (0.1, 0.2, 0.3)
    got = augmentation.apply(tf.constant([_png(image)] * 6), draws, mean)
    parts = [
        random_part(tf.constant(image.shape[:2]), *drawn).numpy()
        for drawn in zip(draws.parts, draws.places, strict=True)
    ]
    resized = [
        Image.fromarray(image[top : top + h, left : left + w]).resize(
            (16, 16), Image.Resampling.BILINEAR
        )
        for top, left, h, w in parts
    ]
    after = Augmentation(flip=True, cutout=4)
    expected = after.apply(np.stack(resized), draws.after, mean)
    np.testing.assert_allclose(got, expected, atol=2 / 255)
    assert len(np.unique(draws.after.mirrored)) == 2


def test_without_chance_the_middle_is_taken():
    encoded = tf.constant([_png(_picture(50, 70))] * 3)
    plain = ResizedCrop(16, random=False)
    draws = plain.draw(SEED, (3, 16, 16, 3))
    expected = to_unit_range(centre_crops(encoded, 16))
    np.testing.assert_array_equal(plain.apply(encoded, draws), expected)


def test_colours_change():
    encoded = tf.constant([_png(_picture(50, 70))] * 4)
    augmentation = ResizedCrop(16)
    draws = augmentation.draw(SEED, (4, 16, 16, 3))
    still = Jitter(tf.zeros_like(draws.jitter.amounts), draws.jitter.order)
    one = augmentation.apply(encoded, draws).numpy()
    other = augmentation.apply(encoded, draws._replace(jitter=still)).numpy()
    assert (np.abs(one - other).mean((1, 2, 3)) > 0.02).all()


def test_a_cutout_that_does_not_fit_is_refused():
    for cutout in (-1, 16):
        with pytest.raises(ValueError, match="cutout must be"):
            ResizedCrop(16, cutout=cutout)
