import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from advrush_tf import AdvRushSearchModel
from advrush_tf.genotypes.search_space import PRIMITIVES
from advrush_tf.official.weights import assign_supernet
from advrush_tf.search import step as search_step
from advrush_tf.search.step import SearchSteps, mean_over_pieces, usual_piece
from advrush_tf.training.optimizers import L2Adam, MomentumSGD
from support import golden
from support.tiny_search import (
    KINDS,
    MEAN,
    STD,
    Recorded,
    assert_equal,
    cross_entropy,
    numbers_of,
    random_batch,
    random_pair,
    recording,
    tiny_compiled,
    tiny_model,
)


def _error(got, expected):
    """Largest difference, relative to the largest value."""
    got, expected = np.asarray(got), np.asarray(expected)
    return np.max(np.abs(got - expected)) / np.max(np.abs(expected))


def _golden_model(dtype):
    return AdvRushSearchModel(10, (16, 16, 3), 2, 5, dtype=dtype)


def _final_variables(data):
    """The recorded end, in a model of its own: variables in our layout."""
    model = _golden_model("float64")
    alphas = {
        name: data[f"A/{name}"][-1] for name in ("alphas_normal", "alphas_reduce")
    }
    weights, buffers = golden.group(data, "A/weights"), golden.group(data, "A/buffers")
    assign_supernet(model, {**weights, **buffers, **alphas})
    return model.variables


def _start(data, dtype):
    model = _golden_model(dtype)
    alphas = {name: data[name] for name in ("alphas_normal", "alphas_reduce")}
    assign_supernet(model, {**golden.group(data, "state"), **alphas})
    settings = data["meta"]["config"]
    model.compile(
        MomentumSGD(Recorded(data["lr_w"]), clip_norm=settings["grad_clip"]),
        gamma=settings["gamma"],
        lambda_=data["meta"]["lambda_"],
        h=settings["h"],
        warmup_epochs=1,
        # Graphs of this size take most of a minute to make; other tests compare graphs.
        run_eagerly=True,
    )
    model.check_images = lambda x: None  # The recorded ones are normalised.
    return model


def _trajectory(data, dtype, steps):
    """Runs recorded steps; returns the run's numbers by their recorded names."""
    model = _start(data, dtype)
    calls, alphas = recording(model), []
    for step in range(steps):
        model.epoch = int(step >= data["meta"]["config"]["warm_steps"])
        x_w, x_a = (
            np.transpose(data[name][step], (0, 2, 3, 1))
            for name in ("x_weight", "x_alpha")
        )
        model.train_step(((x_w, data["y_weight"][step]), (x_a, data["y_alpha"][step])))
        alphas.append(numbers_of(model.alphas))
    got = {
        "loss_w": [loss for loss, _ in calls["update_weights"]],
        "loss_alpha_ce": [loss for loss, _, _ in calls["alpha_gradients"]],
        "penalty": [penalty for penalty, _ in calls["penalty_gradients"]],
    }
    for index, cell in enumerate(("normal", "reduce")):
        got[f"alphas_{cell}"] = [both[index] for both in alphas]
        got[f"grad_ce_{cell}"] = [g[index] for _, _, g in calls["alpha_gradients"]]
        got[f"grad_pen_{cell}"] = [
            g[index] / data["meta"]["config"]["gamma"]
            for _, g in calls["penalty_gradients"]
        ]
    return got, model.variables


def test_recorded_steps_in_float32():
    """Those of the warm-up's beginning: penalties in float32 are other tests'."""
    data = golden.load("trajectory_c2_l5_s1")
    got, _ = _trajectory(data, "float32", 2)
    found = {name: values for name, values in got.items() if "pen" not in name}
    for name, values in found.items():
        pairs = zip(values, data[f"A/{name}"][:2], strict=True)
        # A ReLU whose input is 0 but for rounding turns on some processors and not on
        # others; the gradients of that step then differ in the third digit.
        bound = 1e-2 if "grad" in name else 1e-4
        assert max(_error(*pair) for pair in pairs) < bound, name


def test_recorded_trajectory_in_float64():
    data = golden.load("trajectory_c2_l5_s1")
    warm = data["meta"]["config"]["warm_steps"]
    steps = data["meta"]["config"]["steps"]
    got, variables = _trajectory(data, "float64", steps)
    assert len(got["penalty"]) == len(data["lr_w"]) - warm > 0
    errors = {}
    for name, values in got.items():
        expected = data[f"A/{name}"][-len(values) :]
        pairs = zip(values, expected, strict=True)
        errors[name] = max(_error(a, b) for a, b in pairs)
    assert {n: e for n, e in errors.items() if not e < 1e-8} == {}
    # The file keeps the weights and statistics at the end in float32.
    for ours, official in zip(variables, _final_variables(data), strict=True):
        assert _error(ours, official) < 1e-6, ours.path


def _statistics(model):
    return numbers_of(model.non_trainable_variables)


# The alternating step


def _adam_step(values, gradients, moments, t):
    """One step of the official Adam for the alphas, in place."""
    for p, gradient, (m, v) in zip(values, gradients, moments, strict=True):
        g = gradient + 1e-3 * p
        m[...] = 0.5 * m + 0.5 * g
        v[...] = 0.999 * v + 0.001 * g**2
        size = 3e-4 * np.sqrt(1 - 0.999**t) / (1 - 0.5**t)
        p -= size * m / (np.sqrt(v) + 1e-8)


def _sgd_step(values, gradients, velocities, rate):
    norm = np.sqrt(sum(np.sum(g**2) for g in gradients))
    factor = min(1.0, 5.0 / (norm + 1e-6))
    for w, gradient, v in zip(values, gradients, velocities, strict=True):
        v[...] = 0.9 * v + factor * gradient + 3e-4 * w
        w -= rate * v


def _plain_gradients(model, variables, x, y):
    with tf.GradientTape() as tape:
        logits = model(x, training=True)
        chosen = tf.gather(tf.nn.log_softmax(logits), y, batch_dims=1)
        loss = -tf.reduce_mean(chosen)
    gradients = tape.gradient(loss, variables, unconnected_gradients="zero")
    return [np.asarray(g) for g in gradients]


def _plain_darts(model, pairs, rates):
    """First-order DARTS, written out: the alphas' step, then the weights'."""
    alphas, weights = model.alphas, model.network_weights
    moments = [(np.zeros(a.shape), np.zeros(a.shape)) for a in alphas]
    velocities = [np.zeros(w.shape) for w in weights]
    for t, ((pair_w, pair_a), rate) in enumerate(zip(pairs, rates, strict=True), 1):
        for variables, batch, step, state, number in (
            (alphas, pair_a, _adam_step, moments, t),
            (weights, pair_w, _sgd_step, velocities, rate),
        ):
            plain = [v.value for v in variables]
            gradients = _plain_gradients(model, plain, *batch)
            values = numbers_of(variables)
            step(values, gradients, state, number)
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)


def test_without_gamma_it_is_first_order_darts():
    settings = {"num_cells": 2, "model_settings": {"dtype": "float64"}}
    rates = [0.5, 0.25]
    model = tiny_compiled(
        optimizer=MomentumSGD(Recorded(rates)),
        alpha_optimizer=L2Adam(Recorded([3e-4] * 2)),
        gamma=0,
        warmup_epochs=0,
        **settings,
    )
    plain = tiny_model(1, 2, dtype="float64")
    plain.set_weights(model.get_weights())
    before = model.get_weights()
    pairs = [random_pair(seed) for seed in range(2)]
    for pair in pairs:
        model.train_step(pair)
    _plain_darts(plain, pairs, rates)
    for ours, theirs, start in zip(
        model.variables, plain.variables, before, strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)
        assert np.any(ours.numpy() != start), ours.path


class Traces(keras.callbacks.Callback):
    """How often each part has been traced, at the end of each epoch."""

    def __init__(self):
        super().__init__()
        self.counts = []

    def on_epoch_end(self, epoch, logs=None):
        steps = self.model.steps.items()
        counts = {n: s.experimental_get_tracing_count() for n, s in steps}
        self.counts.append(counts)


def test_the_penalty_is_traced_once_beside_the_warm_up_before_it(monkeypatch):
    threads, traced = [], SearchSteps.penalty_gradients

    def recorded(self, x, y):
        threads.append(threading.current_thread())
        return traced(self, x, y)

    monkeypatch.setattr(SearchSteps, "penalty_gradients", recorded)
    # Whatever operation it has: it is counted.
    model = tiny_compiled(
        run_eagerly=False,
        warmup_epochs=1,
        model_settings={"num_nodes": 1, "primitives": ("skip_connect", "avg_pool_3x3")},
    )
    pairs = tf.data.Dataset.from_tensors(random_pair()).repeat(2)
    traces = Traces()
    model.fit(pairs, epochs=1, verbose=0)
    assert threads == []  # There was a warm-up alone.
    model.epoch = 0
    history = model.fit(pairs, epochs=2, verbose=0, callbacks=[traces]).history
    others = dict.fromkeys(
        ("alpha_gradients", "update_alphas", "update_weights", "track"), 1
    )
    assert traces.counts[0].items() >= others.items()
    assert traces.counts[1] == {**others, "penalty_gradients": 1}
    assert len(threads) == 1 and threads[0] is not threading.main_thread()
    assert history["penalty"][0] == history["penalty_share"][0] == 0
    assert history["penalty"][1] > 0
    assert 0 < history["penalty_share"][1] < 1


def test_penalty_changes_the_alphas_after_the_warm_up_only():
    ends = {}
    for gamma, warmup in ((0, 0), (100.0, 0), (100.0, 1)):
        model = tiny_compiled(gamma=gamma, warmup_epochs=warmup)
        model.train_step(random_pair())
        ends[gamma, warmup] = np.concatenate(numbers_of(model.alphas))
    np.testing.assert_array_equal(ends[0, 0], ends[100.0, 1])
    assert np.max(np.abs(ends[0, 0] - ends[100.0, 0])) > 1e-4


def test_penalty_share_is_the_ratio_of_the_gradients():
    model = tiny_compiled(gamma=0.5, warmup_epochs=0)
    calls = recording(model)
    logs = model.train_step(random_pair())
    (_, _, plain), (_, penalty) = (
        calls["alpha_gradients"][0],
        calls["penalty_gradients"][0],
    )
    norms = [
        np.sqrt(sum(np.sum(np.square(g)) for g in part)) for part in (penalty, plain)
    ]
    np.testing.assert_allclose(logs["penalty_share"], norms[0] / sum(norms), rtol=1e-5)


def test_gamma_and_lambda_scale_the_penalty():
    results = {}
    for gamma, lambda_ in ((0.5, 4.0), (1.0, 4.0), (0.5, 8.0)):
        model = tiny_compiled(gamma=gamma, lambda_=lambda_)
        results[gamma, lambda_] = model.steps["penalty_gradients"](*random_batch(0))
    (value, gradients), (same, by_gamma) = results[0.5, 4.0], results[1.0, 4.0]
    double, by_lambda = results[0.5, 8.0]
    np.testing.assert_allclose([same, double], [value, 2 * value], rtol=1e-6)
    for once, *twice in zip(gradients, by_gamma, by_lambda, strict=True):
        for other in twice:
            np.testing.assert_allclose(other, 2 * once, rtol=1e-5, atol=1e-9)


def test_penalty_reads_and_keeps_the_running_statistics():
    model = tiny_compiled()
    before = _statistics(model)
    penalty, _ = model.steps["penalty_gradients"](*random_batch(0))
    assert_equal(_statistics(model), before)
    model.steps["alpha_gradients"](*random_batch(0))
    changed = zip(_statistics(model), before, strict=True)
    assert all(np.any(a != b) for a, b in changed)
    again, _ = model.steps["penalty_gradients"](*random_batch(0))
    assert abs(float(again) - float(penalty)) > 1e-3 * float(penalty)


def test_weight_step_after_the_penalty_uses_the_new_alphas_and_batch_statistics():
    model = tiny_compiled(optimizer=MomentumSGD(0.0), warmup_epochs=0)
    before = numbers_of(model.alphas)
    logs = model.train_step(random_pair())
    assert np.any(numbers_of(model.alphas)[0] != before[0])
    x, y = random_pair()[0]
    # A rate of 0 keeps the weights, so the loss can be computed again afterwards.
    np.testing.assert_allclose(
        logs["loss"], cross_entropy(model(x, training=True), y), rtol=1e-5
    )
    assert abs(cross_entropy(model(x, training=False), y) - logs["loss"]) > 1e-2


def test_penalty_probes_the_normalised_image():
    model = tiny_compiled(model_settings={"mean": MEAN, "std": STD})
    plain = tiny_compiled(seed=1)
    plain.set_weights(model.get_weights())
    x, y = random_batch(0)
    normalised = (x - np.float32(MEAN)) / np.float32(STD)
    penalty, _ = model.steps["penalty_gradients"](x, y)
    expected, _ = plain.steps["penalty_gradients"](normalised, y)
    np.testing.assert_allclose(penalty, expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "primitives", "dtype", "tolerance"),
    [
        (
            {"jit_compile": True, "run_eagerly": False},
            # Kernels from 5x5 on have gradients of their own.
            (*KINDS[:3], "avg_pool_3x3", "sep_conv_5x5", "dil_conv_3x3"),
            *("float32", 1e-4),
        ),
        # Eight significant bits.
        ({}, PRIMITIVES, "mixed_bfloat16", 3e-2),
    ],
    ids=["XLA", "bfloat16"],
)
def test_xla_and_half_precision_take_nearly_the_same_step(
    settings, primitives, dtype, tolerance
):
    plain, model = (
        tiny_compiled(
            warmup_epochs=0,
            model_settings={"dtype": name, "primitives": primitives},
            **options,
        )
        for name, options in (("float32", {}), (dtype, settings))
    )
    plain = plain.train_step(random_pair())
    logs = model.train_step(random_pair())
    assert all(v.dtype == "float32" for v in model.trainable_variables)
    for name in ("loss", "alpha_loss", "penalty"):
        assert float(logs[name]) == pytest.approx(float(plain[name]), rel=tolerance)


# The penalty by pieces


def test_the_mean_of_pieces_is_numpys():
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(12, 3)), generator.normal(size=12)

    def function(x, y):
        return tf.reduce_mean(x[:, 0] * y), [tf.reduce_mean(x, 0)]

    dtypes = tf.float64, [tf.float64]
    for size in (None, 12, 4, 1):
        product, [mean] = mean_over_pieces(function, (x, y), size, dtypes)
        np.testing.assert_allclose(product, np.mean(x[:, 0] * y), rtol=1e-14)
        np.testing.assert_allclose(mean, x.mean(0), rtol=1e-13)


def test_a_graph_holds_one_piece():
    traced = []

    def function(x):
        traced.append(x.shape)
        return tf.reduce_sum(x)

    step = tf.function(lambda x: mean_over_pieces(function, [x], 2, tf.float32))
    assert step(tf.ones((8, 3))) == 6.0
    assert traced == [(2, 3)]


def test_pieces_that_do_not_divide():
    with pytest.raises(ValueError, match="pieces of 5 do not divide a batch of 12"):
        mean_over_pieces(tf.reduce_mean, [tf.ones(12)], 5, tf.float32)


@pytest.mark.parametrize(
    ("examples", "expected"),
    [
        (32, 16),
        (64, 16),
        (100, 10),
        (24, 12),
        (16, 16),
        (18, 9),
        # A piece of 7 would take longer.
        (14, 14),
        (31, 31),
        (6, 6),
        (None, None),
    ],
)
def test_the_usual_piece(examples, expected, monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    assert usual_piece(examples, 32 * 32 * 16) == expected
    assert usual_piece(examples, 32 * 32 * 15) == examples
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [f"{kind}:0"])
    assert usual_piece(examples, 32 * 32 * 16) == examples


@pytest.mark.parametrize(("images", "size", "piece"), [(6, 2, 2), (24, None, 12)])
def test_the_penalty_of_pieces_is_the_batchs(images, size, piece, monkeypatch):
    results, pieces = [], []

    def recorded(function, batch, size, dtypes):
        pieces.append(size)
        return mean_over_pieces(function, batch, size, dtypes)

    monkeypatch.setattr(search_step, "mean_over_pieces", recorded)
    # Whatever the device; the images have 8x8 pixels, the model 2 channels.
    usual = {(24, 8 * 8 * 2): 12}
    monkeypatch.setattr(search_step, "usual_piece", lambda *sizes: usual[sizes])
    for given in (images, size):
        model = tiny_compiled(
            model_settings={"dtype": "float64"}, penalty_batch=given, run_eagerly=True
        )
        results.append(model.steps["penalty_gradients"](*random_batch(0, images)))
    assert pieces == [images, piece]
    whole, mean = (tf.nest.flatten(result) for result in results)
    # The only cell is a reduction cell.
    assert [np.max(np.abs(values)) > 1e-6 for values in whole] == [True, False, True]
    for a, b in zip(whole, mean, strict=True):
        assert a.dtype == b.dtype == tf.float64
        np.testing.assert_allclose(b, a, rtol=1e-12, atol=1e-12 * np.max(np.abs(a)))
