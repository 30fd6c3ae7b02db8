"""Searches and fits on several replicas, against the same on one."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from advrush_tf import TRADES, AdvRushFitModel, AdvRushSearchModel, CellNetwork
from advrush_tf.attacks.pgd import SignAscent
from advrush_tf.genotypes.genotype import Genotype
from advrush_tf.search.step import SearchSteps
from advrush_tf.training.model import ReplicatedModel
from advrush_tf.training.optimizers import L2Adam, MomentumSGD
from support.replicas import on_each, pieces, strategy
from support.tiny_search import random_batch

PRIMITIVES = ("none", "skip_connect", "sep_conv_3x3")
STEPS, BATCH = 5, 8
TOLERANCE = {"rtol": 1e-8, "atol": 1e-12}


def _search_model(penalty_batch=None, **options):
    keras.utils.set_random_seed(0)
    model = AdvRushSearchModel(
        *(3, (8, 8, 3), 2, 1, 1, 1),
        primitives=PRIMITIVES,
        dtype="float64",
        **options,
    )
    # Gradients are clipped in most steps, and the second epoch has the penalty.
    model.compile(
        *(MomentumSGD(0.1, clip_norm=0.5), L2Adam(0.01)),
        gamma=0.5,
        warmup_epochs=1,
        penalty_batch=penalty_batch,
    )
    return model


def _batches(chosen, seed, sizes):
    """Batches of some sizes, cut for the replicas; the last may be cut unequally."""
    for number, size in enumerate(sizes):
        # In float32 an attack's images round as the number of images has it.
        x, y = random_batch(100 * seed + number, size)
        yield pieces(chosen, x.astype(np.float64), y)


def _run(model, batches):
    """The metrics after each epoch of two, without Keras' iterators.

    Those of TensorFlow's strategies sleep for up to a minute before they end.
    """
    model.make_train_function()
    batches, history = iter(batches), []
    for epoch in range(2):
        model.epoch = epoch
        model.reset_metrics()
        for _ in range(STEPS):
            logs = model.train_function(batches)
        history.append({name: float(value) for name, value in logs.items()})
    return history


def _evaluate(model, batches, count):
    model.make_test_function()
    model.reset_metrics()
    batches = iter(batches)
    for _ in range(count):
        logs = model.test_function(batches)
    return {name: float(value) for name, value in logs.items()}


def _numbers(model):
    return [v.numpy() for g in model.checkpoint_groups.values() for v in g]


@functools.cache
def _searched(replicas, **options):
    chosen = strategy(replicas)
    with chosen.scope():
        model = _search_model(**options)
    sizes = [BATCH] * 2 * STEPS
    pairs = zip(*(_batches(chosen, seed, sizes) for seed in (0, 1)), strict=True)
    history = _run(model, pairs)
    history.append(_evaluate(model, _batches(chosen, 2, [BATCH, 3]), 2))
    return model, history, _numbers(model)


def test_ten_steps_of_a_search_are_those_of_one_replica():
    model, history, variables = _searched(2)
    _, expected_history, expected = _searched(1)
    assert model.distribute_strategy.num_replicas_in_sync == 2
    assert expected_history[1]["penalty"] > 0.01
    _assert_same(history, expected_history, variables, expected)


def _assert_same(history, expected_history, variables, expected):
    for logs, expected_logs in zip(history, expected_history, strict=True):
        assert set(logs) == set(expected_logs)
        for name, value in expected_logs.items():
            np.testing.assert_allclose(logs[name], value, **TOLERANCE, err_msg=name)
    for got, wanted in zip(variables, expected, strict=True):
        np.testing.assert_allclose(got, wanted, **TOLERANCE)


def test_cells_are_recomputed_and_the_penalty_cut_on_replicas_too():
    _, history, variables = _searched(2, recompute_cells=True, penalty_batch=2)
    _, expected_history, expected = _searched(1)
    _assert_same(history, expected_history, variables, expected)


def test_a_search_moved_what_is_compared():
    before = [v.numpy() for v in _search_model().supernet.trainable_variables]
    model, _, _ = _searched(1)
    after = model.supernet.trainable_variables
    for first, last in zip(before, after, strict=True):
        assert np.abs(first - last.numpy()).max() > 1e-4


def _fit_model():
    keras.utils.set_random_seed(0)
    edges = (("sep_conv_3x3", 0), ("max_pool_3x3", 1))
    genotype = Genotype(edges, (2,), (("skip_connect", 0), ("dil_conv_3x3", 1)), (2,))
    network = CellNetwork(
        *(genotype, 3, (8, 8, 3), 2, 1), drop_path=0.3, seed=3, dtype="float64"
    )
    model = AdvRushFitModel(
        network,
        TRADES(epsilon=0.1, step_size=0.04, steps=2, start="uniform"),
        awp_gamma=0.01,
        ema_decay=0.9,
        evaluation_attack=SignAscent(0.1, 0.03, 2, "uniform"),
        dtype="float64",
    )
    model.compile(MomentumSGD(0.1, clip_norm=0.5))
    return model


@functools.cache
def _fitted(replicas):
    chosen = strategy(replicas)
    with chosen.scope():
        model = _fit_model()
    history = _run(model, _batches(chosen, 0, [BATCH] * 2 * STEPS))
    history.append(_evaluate(model, _batches(chosen, 2, [BATCH, 3]), 2))
    return history, _numbers(model)


def test_ten_steps_of_a_fit_are_those_of_one_replica():
    """Random starts, dropped paths, perturbed and averaged weights included."""
    history, variables = _fitted(2)
    expected_history, expected = _fitted(1)
    assert 0 < expected_history[2]["robust_accuracy"] < 1
    _assert_same(history, expected_history, variables, expected)


def test_a_batch_may_have_fewer_images_than_replicas():
    """In float32, where some kernels fail without images."""
    x, y = random_batch(0, 3)
    with strategy(2).scope():
        keras.utils.set_random_seed(0)
        edges = (("sep_conv_3x3", 0), ("skip_connect", 1))
        network = CellNetwork(Genotype(edges, (2,), edges, (2,)), 3, (8, 8, 3), 2, 1)
        attack = SignAscent(0.1, 0.05, 1)
        model = AdvRushFitModel(network, TRADES(), evaluation_attack=attack)
        model.compile()
    parts = ((x[rows], y[rows]) for rows in (slice(2), slice(2, 3)))
    batches = (pieces(model.distribute_strategy, *part) for part in parts)
    found = _evaluate(model, batches, 2)
    logits = np.asarray(network(x, training=False), np.float64)
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(3), y]
    assert found["loss"] == pytest.approx(losses.mean(), rel=1e-5)
    assert found["accuracy"] == pytest.approx((logits.argmax(1) == y).mean())
    assert 0 <= found["robust_accuracy"] <= found["accuracy"]
    # A step would learn nothing on one replica, and its kernels fail.
    batch = pieces(model.distribute_strategy, x[:1], y[:1])
    model.make_train_function()
    searching = _searched(2)[0]
    for train, given in (
        (model.train_function, iter([batch])),
        (searching.train_step, (batch, batch)),
    ):
        with pytest.raises(ValueError, match=r"batch has 1, for 2 replicas; use an"):
            train(given)


def _statistics_after_one_step(chosen, model, x, y):
    step = tf.function(chosen.run, autograph=False)
    step(SearchSteps(model, {}).update_weights, pieces(chosen, x, y))
    return [v.numpy() for v in model.supernet.non_trainable_variables]


def test_statistics_that_are_not_synchronized_are_averaged():
    x, y = random_batch(0, BATCH)
    halves = [
        _statistics_after_one_step(strategy(1), _search_model(), *half)
        for half in zip(np.split(x, 2), np.split(y, 2), strict=True)
    ]
    chosen = strategy(2)
    with chosen.scope():
        model = _search_model(synchronized=False)
    found = _statistics_after_one_step(chosen, model, x, y)
    for got, first, second in zip(found, *halves, strict=True):
        np.testing.assert_allclose(got, (first + second) / 2, **TOLERANCE)
    for variable in model.supernet.non_trainable_variables:
        copies = on_each(chosen, lambda v=variable: tf.identity(v.value))
        np.testing.assert_array_equal(*copies)


def test_a_keras_networks_statistics_are_averaged():
    def fitted(replicas, size):
        with strategy(replicas).scope():
            keras.utils.set_random_seed(0)
            layers = keras.layers
            network = keras.Sequential(
                [
                    layers.Input((8, 8, 3)),
                    layers.Flatten(),
                    layers.BatchNormalization(),
                    layers.Dense(3),
                ]
            )
            model = AdvRushFitModel(network, TRADES(steps=1))
            model.compile()
        x, y = random_batch(0, size)
        model.fit(x, y, batch_size=size, verbose=0)
        return network.layers[1].moving_mean.numpy()

    x, _ = random_batch(0, BATCH)
    found = fitted(2, BATCH)
    # TRADES looks at the clean and at the crafted images, which differ by 0.03.
    whole = 0.01 * x.mean(0).ravel()
    np.testing.assert_allclose(found, whole * (1 + 0.99), atol=0.001)
    assert np.abs(found - fitted(1, BATCH // 2)).max() > 0.001


def test_xla_on_several_replicas_is_refused():
    with strategy(2).scope():
        model = _search_model()
        with pytest.raises(ValueError, match="one replica, not on this strategy's 2"):
            model.compile(jit_compile=True)


def test_metrics_are_those_of_all_examples():
    class Counting(ReplicatedModel):
        def __init__(self):
            super().__init__()
            self.mean = keras.metrics.Mean(name="mean")
            self.built = True

        @property
        def metrics(self):
            return [self.mean]

        def check_batch(self, *batch):
            pass  # These are no images.

        def test_step(self, data):
            self.mean.update_state(data[0])
            return {"mean": self.mean.result()}

    with strategy(2).scope():
        model = Counting()
        model.compile("sgd")
    values = np.asarray([0.1, 0.2, 0.3, 0.4, 0.9], np.float32)
    data = tf.data.Dataset.from_tensor_slices(values).batch(4)
    found = model.evaluate(data, verbose=0, return_dict=True)
    assert found["mean"] == pytest.approx(0.38)
