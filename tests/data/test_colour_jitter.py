import colorsys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance

from advrush_tf.data.colour_jitter import Jitter, draw_jitter, jittered

IMAGE = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)


def _jittered(amounts, order=(0, 1, 2, 3), image=IMAGE):
    jitter = Jitter(tf.constant(amounts, tf.float32), tf.constant(order))
    return jittered(tf.constant(image / 255, tf.float32), jitter).numpy()


@pytest.mark.parametrize("amount", [-0.35, 0.3])
@pytest.mark.parametrize(
    ("index", "enhance"),
    [
        (0, ImageEnhance.Brightness),
        (1, ImageEnhance.Contrast),
        (2, ImageEnhance.Color),
    ],
)
def test_brightness_contrast_and_saturation_match_pillow(index, enhance, amount):
    amounts = np.zeros(4)
    amounts[index] = amount
    expected = enhance(Image.fromarray(IMAGE)).enhance(1 + amount)
    # Pillow rounds to 8 bits, and the grey before.
    np.testing.assert_allclose(_jittered(amounts) * 255, np.asarray(expected), atol=1.6)


def test_the_hue_turns_by_its_amount():
    expected = [
        colorsys.hsv_to_rgb((h + 0.15) % 1, s, v)
        for h, s, v in (colorsys.rgb_to_hsv(*rgb) for rgb in IMAGE.reshape(-1, 3) / 255)
    ]
    got = _jittered([0, 0, 0, 0.15]).reshape(-1, 3)
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_changes_follow_the_order():
    amounts = [0.4, -0.4, 0, 0]
    one = _jittered(amounts, (0, 1, 2, 3))
    other = _jittered(amounts, (1, 0, 2, 3))
    pillow = Image.fromarray(IMAGE)
    for enhance, factor in (
        (ImageEnhance.Contrast, 0.6),
        (ImageEnhance.Brightness, 1.4),
    ):
        pillow = enhance(pillow).enhance(factor)
    np.testing.assert_allclose(other * 255, np.asarray(pillow), atol=2.5)
    assert np.abs(one - other).max() > 0.05


def test_draws_fill_their_ranges_and_orders():
    jitter = draw_jitter(tf.constant([3, 4]), 4000)
    amounts, order = jitter.amounts.numpy(), jitter.order.numpy()
    largest = np.array([0.4, 0.4, 0.4, 0.2])
    np.testing.assert_allclose(np.abs(amounts).max(0), largest, rtol=0.01)
    # Of a uniform distribution on +-r, with 3 standard errors.
    np.testing.assert_allclose(amounts.std(0), largest / 3**0.5, rtol=0.03)
    np.testing.assert_allclose(amounts.mean(0), 0, atol=0.012)
    orders, counts = np.unique(order, axis=0, return_counts=True)
    assert len(orders) == 24
    assert (np.sort(orders, 1) == np.arange(4)).all()
    # 4000 / 24 = 167 of each, with a standard deviation of 13.
    assert counts.min() > 115
    assert counts.max() < 220
