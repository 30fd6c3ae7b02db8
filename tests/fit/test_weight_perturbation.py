import keras
import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.fit.weight_perturbation import kept, moved

SHAPES = {"bias": (3,), "dense": (2, 3), "depthwise": (3, 3, 2, 1), "scalar": ()}
GAMMA = 0.125


def _weights(dtype="float64", seed=0):
    generator = np.random.default_rng(seed)
    return {
        name: keras.Variable(generator.normal(size=shape), dtype=dtype)
        for name, shape in SHAPES.items()
    }


def _gradients(dtype="float64"):
    return [tf.constant(np.asarray(v)) for v in _weights(dtype, seed=1).values()]


def _arrays(variables):
    return [np.asarray(variable).copy() for variable in variables]


def test_a_kernel_by_hand():
    # Length 5, gradient along the first axis: a tenth of 5 along it.
    kernel = keras.Variable([[3.0, 4.0]], dtype="float64")
    with moved([kernel], [tf.constant([[2.0, 0.0]], tf.float64)], 0.1):
        np.testing.assert_allclose(kernel, [[3.5, 4.0]], rtol=1e-12)
    np.testing.assert_array_equal(kernel, [[3.0, 4.0]])


def test_kernels_move_by_their_share_along_the_gradient_and_vectors_stay():
    weights, gradients = _weights(), _gradients()
    before = _arrays(weights.values())
    with moved(list(weights.values()), gradients, GAMMA):
        for name, old, new, gradient in zip(
            weights, before, _arrays(weights.values()), gradients, strict=True
        ):
            if name in ("bias", "scalar"):
                np.testing.assert_array_equal(new, old)
                continue
            step, length = new - old, GAMMA * np.linalg.norm(old)
            along = np.sum(step * gradient) / np.linalg.norm(gradient)
            np.testing.assert_allclose(np.linalg.norm(step), length, rtol=1e-12)
            np.testing.assert_allclose(along, length, rtol=1e-12)


@pytest.mark.parametrize("fails", [False, True])
def test_weights_come_back_bit_for_bit(fails):
    weights = list(_weights("float32").values())
    before = _arrays(weights)
    try:
        with moved(weights, _gradients("float32"), GAMMA):
            assert (np.asarray(weights[1]) != before[1]).any()
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    for old, new in zip(before, weights, strict=True):
        np.testing.assert_array_equal(new, old)


@pytest.mark.parametrize("zero", ["weight", "gradient"])
def test_without_a_length_or_a_direction_nothing_moves(zero):
    values = {"weight": np.ones((2, 2)), "gradient": np.ones((2, 2))}
    values[zero] *= 0
    kernel = keras.Variable(values["weight"], dtype="float64")
    with moved([kernel], [tf.constant(values["gradient"])], GAMMA):
        np.testing.assert_array_equal(kernel, values["weight"])


def test_every_weight_needs_a_gradient():
    weights = list(_weights().values())
    with pytest.raises(ValueError, match="zip"), moved(weights, [], GAMMA):
        pass


def test_a_compiled_move_and_return():
    kernel = keras.Variable([[3.0, 4.0]])

    @tf.function
    def step():
        with moved([kernel], [tf.constant([[0.0, 1.0]])], 0.2):
            inside = tf.identity(kernel.value)
        return inside, tf.identity(kernel.value)

    inside, after = step()
    np.testing.assert_allclose(inside, [[3.0, 5.0]], rtol=1e-6)
    np.testing.assert_array_equal(after, [[3.0, 4.0]])
    np.testing.assert_array_equal(kernel, [[3.0, 4.0]])


@pytest.mark.parametrize("fails", [False, True])
def test_kept_variables_get_their_values_back(fails):
    variables = list(_weights("float32").values())
    before = _arrays(variables)
    try:
        with kept(variables):
            for variable in variables:
                variable.assign(variable.value + 1)
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    for old, new in zip(before, variables, strict=True):
        np.testing.assert_array_equal(new, old)
