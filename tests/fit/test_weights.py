import keras
import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.fit.weights import WeightAverage, perturbed, restored_afterwards
from support.small_networks import tiny_network

STARTS = [np.array([1.0, -2.0, 0.5]), np.array([[3.0], [-0.25]])]


def _variables(dtype="float64"):
    return [keras.Variable(start, dtype=dtype) for start in STARTS]


def _updates(count):
    generator = np.random.default_rng(5)
    return [
        [generator.normal(size=start.shape) for start in STARTS] for _ in range(count)
    ]


def _expected(updates, decay):
    averages = [start.copy() for start in STARTS]
    for t, values in enumerate(updates):
        d = min(decay, (1 + t) / (10 + t))
        averages = [
            d * a + (1 - d) * value for a, value in zip(averages, values, strict=True)
        ]
    return averages


def _run(average, variables, updates):
    for t, values in enumerate(updates):
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        average.update(t)


def _arrays(variables):
    return [np.asarray(variable).copy() for variable in variables]


@pytest.mark.parametrize("decay", [0.2, 0.25, 0.999])
def test_several_updates_are_those_of_numpy(decay):
    # 0.2 is capped from the second update on (2 / 11), 0.999 never in six.
    variables, updates = _variables(), _updates(6)
    average = WeightAverage(variables, decay)
    _run(average, variables, updates)
    with average.in_use():
        for got, expected in zip(variables, _expected(updates, decay), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_the_first_updates_by_hand():
    # Weights of the old average: 1/10, 2/11, then the decay.
    variable = keras.Variable([1.0])
    average = WeightAverage([variable], 0.125)
    expected = 1.0
    for step, old in enumerate((0.1, 0.125, 0.125)):
        variable.assign([2.0 * step])
        average.update(step)
        expected = old * expected + (1 - old) * 2.0 * step
        np.testing.assert_allclose(average.weights[0], [expected], rtol=1e-6)


def test_averages_start_at_the_values_and_are_no_trainable_weights():
    variables = _variables("float32")
    average = WeightAverage(variables, 0.9)
    for got, start in zip(average.weights, STARTS, strict=True):
        np.testing.assert_array_equal(got, start.astype(np.float32))
    assert not average.trainable_variables


@pytest.mark.parametrize("fails", [False, True])
def test_own_values_come_back_bit_for_bit(fails):
    variables, updates = _variables("float32"), _updates(3)
    average = WeightAverage(variables, 0.9)
    _run(average, variables, updates)
    own, averages = _arrays(variables), _arrays(average.weights)
    try:
        with average.in_use():
            inside = _arrays(variables)
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    for before, within, after, mean in zip(
        own, inside, variables, averages, strict=True
    ):
        assert (within != before).all()
        np.testing.assert_array_equal(within, mean)
        np.testing.assert_array_equal(after, before)
    for mean, same in zip(averages, average.weights, strict=True):
        np.testing.assert_array_equal(same, mean)


def test_a_compiled_update_takes_a_tensor_of_steps():
    variables, updates = _variables(), _updates(4)
    average = WeightAverage(variables, 0.25)
    update = tf.function(average.update)
    for t, values in enumerate(updates):
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        update(tf.constant(t, tf.int64))
    for got, expected in zip(average.weights, _expected(updates, 0.25), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_running_statistics_of_a_network_are_averaged_too():
    net = tiny_network()
    average = WeightAverage(net.weights, 0.9)
    before = net.get_weights()
    net(np.ones((4, 8, 8, 1), np.float32), training=True)
    average.update(0)
    for old, new, got in zip(before, net.get_weights(), average.weights, strict=True):
        np.testing.assert_allclose(got, 0.1 * old + 0.9 * new, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.5, float("nan")])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match=r"must be in \(0, 1\)"):
        WeightAverage(_variables(), decay)


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


def test_a_kernel_by_hand():
    # Length 5, gradient along the first axis: a tenth of 5 along it.
    kernel = keras.Variable([[3.0, 4.0]], dtype="float64")
    with perturbed([kernel], [tf.constant([[2.0, 0.0]], tf.float64)], 0.1):
        np.testing.assert_allclose(kernel, [[3.5, 4.0]], rtol=1e-12)
    np.testing.assert_array_equal(kernel, [[3.0, 4.0]])


def test_kernels_move_by_their_share_along_the_gradient_and_vectors_stay():
    weights, gradients = _weights(), _gradients()
    before = _arrays(weights.values())
    with perturbed(list(weights.values()), gradients, GAMMA):
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
        with perturbed(weights, _gradients("float32"), GAMMA):
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
    with perturbed([kernel], [tf.constant(values["gradient"])], GAMMA):
        np.testing.assert_array_equal(kernel, values["weight"])


def test_every_weight_needs_a_gradient():
    weights = list(_weights().values())
    with pytest.raises(ValueError, match="zip"), perturbed(weights, [], GAMMA):
        pass


def test_a_compiled_move_and_return():
    kernel = keras.Variable([[3.0, 4.0]])

    @tf.function
    def step():
        with perturbed([kernel], [tf.constant([[0.0, 1.0]])], 0.2):
            inside = tf.identity(kernel.value)
        return inside, tf.identity(kernel.value)

    inside, after = step()
    np.testing.assert_allclose(inside, [[3.0, 5.0]], rtol=1e-6)
    np.testing.assert_array_equal(after, [[3.0, 4.0]])
    np.testing.assert_array_equal(kernel, [[3.0, 4.0]])


@pytest.mark.parametrize("fails", [False, True])
def test_restored_variables_get_their_values_back(fails):
    variables = list(_weights("float32").values())
    before = _arrays(variables)
    try:
        with restored_afterwards(variables):
            for variable in variables:
                variable.assign(variable.value + 1)
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    for old, new in zip(before, variables, strict=True):
        np.testing.assert_array_equal(new, old)
