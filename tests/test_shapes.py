"""Every kind of step on images of many shapes."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.attacks.apgd import APGD
from advrush_tf.fit.model import AdvRushFitModel
from advrush_tf.fit.objectives import PGD, Standard
from advrush_tf.genotypes.genotype import Genotype
from advrush_tf.genotypes.search_space import PRIMITIVES
from advrush_tf.landscape.meter import measure_curvature
from advrush_tf.nn.cell_network import CellNetwork
from advrush_tf.search.model import AdvRushSearchModel
from advrush_tf.search.penalty import curvature_penalty
from support import per_edge
from support.processes import run_in_a_process

# Even and odd, prime, oblong both ways, and halves that are even and odd; other tests
# have square ones.
SHAPES = [(18, 12, 3), (13, 29, 4), (8, 64, 1)]
# One operation of each kind: poolings, identity, separable and dilated convolution.
KINDS = ("avg_pool_3x3", "max_pool_3x3", "skip_connect", "sep_conv_3x3", "dil_conv_3x3")
GENOTYPE = Genotype(
    normal=[("sep_conv_3x3", 0), ("dil_conv_3x3", 1)],
    normal_concat=[2],
    reduce=[("max_pool_3x3", 0), ("skip_connect", 1)],
    reduce_concat=[2],
)
EPSILON = 0.05

shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))


def _batch(shape, size=4):
    rng = np.random.default_rng(0)
    return rng.random((size, *shape), np.float32), np.arange(size, dtype=np.int32) % 3


def _randomize(model):
    rng = np.random.default_rng(1)
    for variable in model.variables:
        bounds = (0.5, 1.5) if "variance" in variable.name else (-0.5, 0.5)
        if "seed" not in variable.name:
            variable.assign(rng.uniform(*bounds, variable.shape))


def _close(actual, expected, tolerance):
    for a, b in zip(actual, expected, strict=True):
        bound = tolerance * max(1e-2, np.abs(b).max())
        np.testing.assert_allclose(a, b, rtol=0, atol=bound)


# Search


def _search(kind, shape, primitives, eager, **settings):
    # Three cells have a normal one before the reductions. With these numbers and all
    # primitives a block shape that the graph does not see aborts 12x18.
    model = kind(3, shape, 2, 3, 1, 3, primitives, **settings)
    _randomize(model)
    model.compile(run_eagerly=eager)
    return model


def _search_step(model, shape):
    """Numbers, gradients and weights of an alpha step, its penalty, a weight step."""
    batch = _batch(shape)
    alpha_loss, _, gradients = model.steps["alpha_gradients"](*batch)
    penalty, bent = model.steps["penalty_gradients"](*batch)
    loss, _ = model.steps["update_weights"](*batch)
    values = alpha_loss, *gradients, penalty, *bent, loss, *model.network_weights
    return [np.asarray(value) for value in values]


@functools.cache
def _expected(shape, primitives):
    model = _search(
        per_edge.PerEdgeSearchModel, shape, primitives, True, dtype="float64"
    )
    return _search_step(model, shape)


@pytest.mark.parametrize(
    ("shape", "recompute"),
    # Recomputed where sides are odd; other tests have even ones.
    [*((shape, False) for shape in SHAPES), (SHAPES[1], True)],
)
def test_search_steps_equal_the_reference(shape, recompute):
    settings = {"recompute_cells": recompute, "dtype": "float64"}
    model = _search(AdvRushSearchModel, shape, KINDS, True, **settings)
    _close(_search_step(model, shape), _expected(shape, KINDS), 1e-8)


def save_search_step(path, shape, primitives, recompute):
    """Takes a step in graphs and writes its numbers to a file."""
    settings = {"recompute_cells": recompute}
    model = _search(AdvRushSearchModel, shape, primitives, False, **settings)
    np.savez(path, *_search_step(model, shape))


@pytest.mark.parametrize(
    ("shape", "primitives", "recompute"),
    [
        ((12, 18, 3), PRIMITIVES, False),
        ((13, 29, 4), ("max_pool_3x3", "dil_conv_3x3"), True),
    ],
    ids=["kept", "recomputed"],
)
def test_search_steps_in_graphs_equal_the_reference(
    tmp_path, shape, primitives, recompute
):
    # In a process of its own, which TensorFlow's optimiser of graphs may abort.
    path = tmp_path / "step.npz"
    call = f"save_search_step({str(path)!r}, {shape}, {primitives}, {recompute})"
    run_in_a_process(f"import test_shapes; test_shapes.{call}")
    with np.load(path) as saved:
        actual = [saved[name] for name in saved.files]
    _close(actual, _expected(shape, primitives), 1e-3)


# Fit, attacks, landscape


def _network(shape, turned=False, dtype="float32"):
    """A network of random weights; `turned` is that for images that lie on their side.

    Height and width are exchanged in the images and in all kernels.
    """
    keras.utils.set_random_seed(0)
    height, width, channels = shape
    sides = (width, height) if turned else (height, width)
    network = CellNetwork(GENOTYPE, 3, (*sides, channels), 2, 3, dtype=dtype)
    _randomize(network)
    if turned:
        _turn(network.variables)
    return network


def _turn(variables):
    for variable in variables:
        if len(variable.shape) == 4:
            variable.assign(np.swapaxes(variable.numpy(), 0, 1))


def _turned_batch(shape):
    x, y = _batch(shape)
    return np.swapaxes(x, 1, 2), y


def _fit_step(network, objective, batch, eager=False):
    """The loss of a step, and the network's variables after it."""
    model = AdvRushFitModel(network, objective)
    model.compile(run_eagerly=eager)
    return model.train_on_batch(*batch)[0], network.variables


@shapes
def test_fit_steps_equal_those_of_images_on_their_side(shape):
    loss, variables = _fit_step(_network(shape), Standard(), _batch(shape))
    turned = _network(shape, turned=True, dtype="float64")
    expected, reference = _fit_step(turned, Standard(), _turned_batch(shape), True)
    _turn(reference)
    got = [loss, *(v.numpy() for v in variables)]
    _close(got, [expected, *(v.numpy() for v in reference)], 1e-3)


@shapes
def test_fit_steps_on_attacked_images(shape):
    (x, y), network = _batch(shape), _network(shape)
    objective = PGD(epsilon=EPSILON, step_size=0.02, steps=3)
    crafted = objective.craft(
        lambda z, training: network(z, training=training), tf.constant(x), y, (0, 1)
    )
    assert _loss(y, network(crafted)) > _loss(y, network(x))
    expected = _loss(y, network(crafted, training=True))
    # Up to the noise that an attack starts from.
    loss, _ = _fit_step(_network(shape), objective, (x, y))
    assert loss == pytest.approx(expected, rel=1e-2)


def _loss(y, logits):
    entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return float(entropy(y, logits))


@shapes
def test_attacks_break_images_within_their_ball(shape):
    network, (x, _) = _network(shape), _batch(shape)
    middle = tf.reduce_mean(network(x, training=False), 0)

    def model(images):
        # Near the boundaries: random weights say the same of all images.
        return network(images, training=False) - middle

    y = np.argmax(model(x), -1)
    found = APGD(epsilon=EPSILON, iterations=3).craft(model, x, y, batch_size=4)
    assert found.shape == x.shape
    assert np.abs(found - x).max() <= EPSILON + 1e-6
    assert np.any(np.argmax(model(found), -1) != y)


@shapes
def test_curvature_equals_that_of_images_on_their_side(shape):
    network = _network(shape)
    settings = {"batch_size": 4, "top": 1, "lanczos_steps": 2, "probe_length": 0.5}
    found = measure_curvature(network, *_batch(shape), **settings)
    turned = _network(shape, turned=True, dtype="float64")
    expected = curvature_penalty(turned, *_turned_batch(shape), h=0.5)
    _close([found.penalties], [expected], 1e-3)
    assert np.isfinite(found.eigenvalues).all()
