import numpy as np
import pytest

from advrush_tf.data.channel_moments import channel_moments


def test_moments_of_several_batches_match_numpy():
    images = np.random.default_rng(0).integers(0, 256, (50, 5, 4, 3), np.uint8)
    images[..., 1] //= 3
    mean, std = channel_moments([images[:20], images[20:]])
    unit = images.astype(np.float64) / 255
    np.testing.assert_allclose(mean, unit.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, unit.std((0, 1, 2)), rtol=1e-12)


def test_the_deviation_of_a_constant_channel_is_one():
    assert channel_moments([np.full((3, 2, 2, 1), 51, np.uint8)]) == (
        pytest.approx((0.2,)),
        (1.0,),
    )
