import keras
import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.training.optimizers import EpochCosine, L2Adam, MomentumSGD, OneCycle

STARTS = [np.array([1.0, -2.0, 0.5]), np.array([[3.0], [-0.25]])]
RATES = [0.1, 0.1, 0.05, 0.0125, 0.2]


class Rates(keras.optimizers.schedules.LearningRateSchedule):
    """One float64 rate a step."""

    def __init__(self, rates):
        self.rates = rates

    def __call__(self, step):
        return tf.gather(tf.constant(self.rates, tf.float64), step)


def _variables(dtype="float64"):
    return [keras.Variable(start, dtype=dtype) for start in STARTS]


def _gradients(steps, size=1.0):
    generator = np.random.default_rng(3)
    return [
        [size * generator.normal(size=start.shape) for start in STARTS]
        for _ in range(steps)
    ]


def _run(optimizer, variables, gradients):
    """Applies the gradients; returns the values after each step."""
    history = []
    for step in gradients:
        optimizer.apply([tf.constant(g) for g in step], variables)
        history.append([v.numpy() for v in variables])
    return history


def _momentum_sgd(gradients, rates, momentum, l2, clip_norm):
    values = [start.copy() for start in STARTS]
    velocities = [np.zeros_like(value) for value in values]
    history = []
    for step, rate in zip(gradients, rates, strict=True):
        norm = np.sqrt(sum(np.sum(g**2) for g in step))
        factor = 1.0 if clip_norm is None else min(1.0, clip_norm / (norm + 1e-6))
        for value, velocity, gradient in zip(values, velocities, step, strict=True):
            velocity[...] = momentum * velocity + factor * gradient + l2 * value
            value -= rate * velocity
        history.append([value.copy() for value in values])
    return history


def _adam(gradients, rate, beta_1, beta_2, l2):
    values = [start.copy() for start in STARTS]
    means = [np.zeros_like(value) for value in values]
    squares = [np.zeros_like(value) for value in values]
    history = []
    for t, step in enumerate(gradients, 1):
        for p, m, v, gradient in zip(values, means, squares, step, strict=True):
            g = gradient + l2 * p
            m[...] = beta_1 * m + (1 - beta_1) * g
            v[...] = beta_2 * v + (1 - beta_2) * g**2
            size = rate * np.sqrt(1 - beta_2**t) / (1 - beta_1**t)
            p -= size * m / (np.sqrt(v) + 1e-8)
        history.append([value.copy() for value in values])
    return history


def _assert_same(got, expected, rtol):
    for ours, theirs in zip(got, expected, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=rtol, atol=0)


def test_momentum_sgd_by_hand():
    # Norm 5 is clipped to 1 (0.6, 0.8), then 0.5 * w is added: g = (1.6, -0.2).
    # v = g, w = (2, -2) - 0.1 * g = (1.84, -1.98). Then a zero gradient at rate 1:
    # v = 0.9 * g + 0.5 * w = (2.36, -1.17) and w = (-0.52, -0.81).
    w = keras.Variable([2.0, -2.0], dtype="float64")
    optimizer = MomentumSGD(Rates([0.1, 1.0]), momentum=0.9, l2=0.5, clip_norm=1.0)
    optimizer.apply([tf.constant([3.0, 4.0], tf.float64)], [w])
    np.testing.assert_allclose(w, [1.84, -1.98], rtol=1e-6)
    optimizer.apply([tf.constant([0.0, 0.0], tf.float64)], [w])
    np.testing.assert_allclose(w, [-0.52, -0.81], rtol=1e-6)


@pytest.mark.parametrize("clip_norm", [5.0, 0.5, None])
def test_momentum_sgd_over_changing_rates(clip_norm):
    gradients = _gradients(len(RATES), size=2.0)
    settings = {"momentum": 0.9, "l2": 0.01, "clip_norm": clip_norm}
    got = _run(MomentumSGD(Rates(RATES), **settings), _variables(), gradients)
    _assert_same(got, _momentum_sgd(gradients, RATES, **settings), rtol=1e-12)


def test_clipping_adds_a_millionth_to_the_norm():
    # A tiny threshold makes the 1e-6 visible: factor 1e-6 / (1e-6 + 1e-6) = 1/2.
    w = keras.Variable([0.0], dtype="float64")
    optimizer = MomentumSGD(Rates([1.0]), l2=0.0, clip_norm=1e-6)
    optimizer.apply([tf.constant([1e-6], tf.float64)], [w])
    np.testing.assert_allclose(w, [-5e-7], rtol=1e-10)


def test_momentum_sgd_defaults_are_the_official_recipe():
    gradients = _gradients(3, size=10.0)
    got = _run(MomentumSGD(), _variables(), gradients)
    expected = _momentum_sgd(gradients, [0.025] * 3, 0.9, 3e-4, 5.0)
    _assert_same(got, expected, rtol=1e-7)  # Keras keeps a number in float32


def test_momentum_sgd_in_a_traced_step_follows_a_number_that_is_changed():
    gradients = _gradients(3)
    optimizer, variables = MomentumSGD(0.5), _variables("float32")
    optimizer.build(variables)
    step = tf.function(lambda grads: optimizer.apply(grads, variables))
    rates = [0.5, 0.25, 0.125]
    for rate, grads in zip(rates, gradients, strict=True):
        optimizer.learning_rate = rate
        step([tf.constant(g, tf.float32) for g in grads])
    expected = _momentum_sgd(gradients, rates, 0.9, 3e-4, 5.0)[-1]
    _assert_same([variables], [expected], rtol=1e-5)
    assert int(optimizer.iterations) == 3


def test_l2_adam_is_the_official_formula():
    gradients = _gradients(6)
    got = _run(L2Adam(Rates([0.01] * 6), l2=0.1), _variables(), gradients)
    _assert_same(got, _adam(gradients, 0.01, 0.5, 0.999, 0.1), rtol=1e-12)


def test_l2_adam_epsilon_is_outside_the_bias_correction():
    # g = 1e-8: v = 1e-3 * g^2, so sqrt(v) is smaller than epsilon and its place shows.
    w = keras.Variable([0.0], dtype="float64")
    L2Adam(Rates([1.0]), l2=0.0).apply([tf.constant([1e-8], tf.float64)], [w])
    size = np.sqrt(1e-3) / 0.5 * 0.5e-8 / (np.sqrt(1e-3) * 1e-8 + 1e-8)
    np.testing.assert_allclose(w, [-size], rtol=1e-10)


def test_l2_adam_defaults_are_the_official_recipe():
    gradients = _gradients(4)
    got = _run(L2Adam(), _variables(), gradients)
    _assert_same(got, _adam(gradients, 3e-4, 0.5, 0.999, 1e-3), rtol=1e-9)


def test_epoch_cosine_is_the_closed_form_and_constant_within_an_epoch():
    schedule = EpochCosine(0.025, 0.001, epochs=5, steps_per_epoch=3)
    got = [float(schedule(step)) for step in range(18)]
    epochs = np.repeat(np.arange(6), 3)
    expected = 0.001 + (0.025 - 0.001) * (1 + np.cos(np.pi * epochs / 5)) / 2
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert all(len(set(got[3 * e : 3 * e + 3])) == 1 for e in range(6))
    np.testing.assert_allclose([got[0], got[15]], [0.025, 0.001], rtol=1e-5)


def test_epoch_cosine_drives_an_optimizer():
    gradients = _gradients(4)
    schedule = EpochCosine(0.2, 0.0, epochs=2, steps_per_epoch=2)
    got = _run(MomentumSGD(schedule), _variables(), gradients)
    expected = _momentum_sgd(gradients, [0.2, 0.2, 0.1, 0.1], 0.9, 3e-4, 5.0)
    _assert_same(got, expected, rtol=1e-6)


@pytest.mark.parametrize("steps", [5, 7, 100])
def test_one_cycle_is_numpys_interpolation(steps):
    # PyTorch's cycle: step 0 has the lowest rate, steps after the last one too.
    schedule = OneCycle(0.2, steps)
    expected = np.interp(np.arange(steps + 3), [0, steps / 2, steps], [0, 0.2, 0])
    for kind in (int, np.int64, tf.constant):
        got = [float(schedule(kind(step))) for step in range(steps + 3)]
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)
    assert got[0] == got[-1] == 0 < got[steps - 1]


def test_one_cycle_drives_an_optimizer():
    gradients = _gradients(5)
    got = _run(MomentumSGD(OneCycle(0.2, 5)), _variables(), gradients)
    rates = [0.0, 0.08, 0.16, 0.16, 0.08]
    expected = _momentum_sgd(gradients, rates, 0.9, 3e-4, 5.0)
    _assert_same(got, expected, rtol=1e-6)


@pytest.mark.parametrize(
    "optimizer",
    [
        MomentumSGD(0.5, momentum=0.25, l2=0.125, clip_norm=None, name="mine"),
        MomentumSGD(EpochCosine(0.5, 0.25, 7, 11)),
        MomentumSGD(OneCycle(0.5, 7)),
        L2Adam(0.5, beta_1=0.25, beta_2=0.75, epsilon=0.125, l2=0.0625, name="mine"),
        L2Adam(EpochCosine(0.5, 0.25, 7, 11)),
    ],
    ids=["sgd", "sgd_cosine", "sgd_cycle", "adam", "adam_cosine"],
)
def test_optimizers_come_back_from_their_configuration(optimizer):
    text = keras.saving.serialize_keras_object(optimizer)
    again = keras.saving.deserialize_keras_object(text)
    assert type(again) is type(optimizer)
    assert again.get_config() == optimizer.get_config()
    assert again.get_config()["l2"] == optimizer.l2
    gradients = _gradients(3)
    expected = _run(optimizer, _variables(), gradients)
    _assert_same(_run(again, _variables(), gradients), expected, rtol=0)


@pytest.mark.parametrize(
    "schedule",
    [EpochCosine(0.5, 0.25, 7, 11), OneCycle(0.5, 77)],
    ids=lambda schedule: type(schedule).__name__,
)
def test_schedules_come_back_from_their_configuration(schedule):
    again = type(schedule).from_config(schedule.get_config())
    steps = range(0, 77, 11)
    assert [float(again(s)) for s in steps] == [float(schedule(s)) for s in steps]


@pytest.mark.parametrize("make", [MomentumSGD, L2Adam])
def test_state_is_saved_and_training_goes_on_as_if_never_stopped(make, tmp_path):
    gradients = _gradients(6)
    optimizer, variables = make(0.125), _variables()
    expected = _run(optimizer, variables, gradients)[3:]

    first, interrupted = make(0.125), _variables()
    _run(first, interrupted, gradients[:3])
    stored = {}
    first.save_own_variables(stored)
    np.savez(tmp_path / "state.npz", **stored)

    second = make(0.125)
    second.build(interrupted)
    second.load_own_variables(dict(np.load(tmp_path / "state.npz")))
    _assert_same(_run(second, interrupted, gradients[3:]), expected, rtol=0)
    assert int(second.iterations) == 6
