import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

from advrush_tf import AdvRushSearchModel
from advrush_tf.attacks.pgd import SignAscent
from advrush_tf.losses import cross_entropy
from advrush_tf.nn.blocks import Block
from advrush_tf.nn.recompute import recomputed
from advrush_tf.search.penalty import input_gradient
from support.small_networks import tiny_batch, tiny_network
from support.tiny_search import numbers_of, random_batch

PRIMITIVES = ("max_pool_3x3", "skip_connect", "dil_conv_3x3")


class Cubic(Block):
    """scale * weight * x**3; counts its calls and keeps sight of what lies between."""

    def build(self, input_shape):
        self.weight = self.add_weight(shape=(), initializer="ones", dtype="float64")
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False)
        self.built = True

    def call(self, x, scale):
        self.calls.assign(self.calls.value + 1)
        cube = x * tf.square(x)
        self.seen = weakref.ref(cube)
        return scale * (self.weight.value * cube)


def cubic(weight=3.0):
    layer = Cubic()
    layer.build(None)
    layer.weight.assign(weight)
    return layer


# Numbers


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "graph"])
def test_derivatives_of_any_order_by_hand(compiled):
    layer = cubic(3.0)
    x, scale = tf.constant([2.0, 5.0], tf.float64), tf.constant(0.5, tf.float64)
    weight = layer.weight.value

    def derivatives():
        with tf.GradientTape() as third:
            third.watch([x, scale])
            with tf.GradientTape() as second:
                second.watch(x)
                with tf.GradientTape() as first:
                    first.watch(x)
                    y = recomputed(layer)([x], scale)
                slope = first.gradient(y, x)
            bend = second.gradient(slope, x)
        return y, slope, bend, third.gradient(bend, [x, scale, weight])

    y, slope, bend, rest = (tf.function(derivatives) if compiled else derivatives)()
    np.testing.assert_allclose(y, [12, 187.5])
    np.testing.assert_allclose(slope, [18, 112.5])
    np.testing.assert_allclose(bend, [18, 45])
    expected = [9, 9], 2 * 18 + 2 * 45, (18 + 45) / 3
    for got, value in zip(rest, expected, strict=True):
        np.testing.assert_allclose(got, value)
    assert layer.calls.numpy() == 1


def test_the_second_run_reads_the_weights_of_the_first():
    layer, x = cubic(3.0), tf.constant([2.0], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = recomputed(layer)([x], tf.constant(1.0, tf.float64))
    layer.weight.assign(100.0)
    np.testing.assert_allclose(tape.gradient(y, x), [36])


def _search_models(**settings):
    """A model, and the same with recomputation."""
    models = []
    for recompute_cells in (False, True):
        keras.utils.set_random_seed(0)
        model = AdvRushSearchModel(
            3,
            (8, 8, 3),
            2,
            2,
            1,
            primitives=PRIMITIVES,
            **settings,
            recompute_cells=recompute_cells,
        )
        for seed, alphas in enumerate(model.alphas):
            values = np.random.default_rng(seed).normal(size=alphas.shape)
            alphas.assign(values)
        models.append(model)
    return models


def _assert_close(got, expected, tolerance):
    for a, b in zip(tf.nest.flatten(got), tf.nest.flatten(expected), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert np.max(np.abs(a - b)) <= tolerance * max(np.max(np.abs(b)), 1e-3)


# In float32 a graph adds up the same numbers in the same order, but for the penalty.
@pytest.mark.parametrize(
    ("dtype", "eager", "steps", "tolerance"),
    [
        ("float64", True, ("alpha_gradients", "penalty_gradients"), 1e-12),
        ("float64", False, ("penalty_gradients",), 1e-12),
        ("float32", False, ("alpha_gradients", "update_weights"), 0),
        ("mixed_bfloat16", True, ("alpha_gradients", "update_weights"), 0),
    ],
    ids=["float64-eager", "float64-graph", "float32-graph", "mixed_bfloat16-eager"],
)
def test_a_search_computes_the_same(dtype, eager, steps, tolerance):
    plain, again = _search_models(dtype=dtype)
    batch = random_batch(0, size=3)
    again.compile(run_eagerly=eager)
    # Bit for bit, a graph is compared with a graph.
    plain.compile(run_eagerly=eager or tolerance > 0)
    for name in steps:
        results = [model.steps[name](*batch) for model in (again, plain)]
        _assert_close(*results, tolerance)
    _assert_close(numbers_of(again.weights), numbers_of(plain.weights), tolerance)
    moved = again.supernet.cells[0].preprocess[0].convolution.moving_mean
    assert np.any(moved) == ("alpha_gradients" in steps)


class Noisy(Block):
    """x**2 times a number drawn from a generator that is not the layer's own."""

    def __init__(self, generator):
        super().__init__()
        self.draw = lambda: keras.random.uniform((), seed=generator)

    def call(self, x):
        return tf.square(x) * self.draw()


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "graph"])
def test_what_was_drawn_is_drawn_again(compiled):
    generator = keras.random.SeedGenerator(3)
    layer = Noisy(generator)
    layer.build(None)

    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = recomputed(layer, [generator.state])([x])
        return y, tape.gradient(y, x)

    step = tf.function(step) if compiled else step
    x = tf.constant([2.0, 3.0])
    (first, first_slope), (second, second_slope) = step(x), step(x)
    np.testing.assert_allclose(first_slope, 2 * first / x, rtol=1e-6)
    np.testing.assert_allclose(second_slope, 2 * second / x, rtol=1e-6)
    assert np.all(first != second)
    expected = keras.random.SeedGenerator(3)
    drawn = [keras.random.uniform((), seed=expected) for _ in range(2)]
    np.testing.assert_array_equal(
        [first / x**2, second / x**2], np.outer(drawn, [1, 1])
    )


def test_dropped_paths_are_dropped_again():
    x, y = tiny_batch()
    results = []
    for recompute_cells in (False, True):
        network = tiny_network(
            drop_path=0.5, seed=1, recompute_cells=recompute_cells, dtype="float64"
        )
        weights = [v.value for v in network.trainable_variables]
        steps = []
        for _ in range(2):
            with tf.GradientTape() as tape:
                loss = cross_entropy(y, network(x, training=True))
            steps.append((loss, tape.gradient(loss, weights)))
        results.append([steps, numbers_of(network.variables)])
    _assert_close(*results, 1e-12)
    (first, _), (second, _) = results[0][0]
    assert np.max(np.abs(first - second)) > 0.01


def test_crafted_images_are_the_same():
    x, y = tiny_batch()
    crafted = []
    for recompute_cells in (False, True):
        network = tiny_network(recompute_cells=recompute_cells)

        def craft(network=network):
            return SignAscent(steps=3).craft(
                lambda z: cross_entropy(y, network(z, training=False)), x, (0, 0)
            )

        crafted.append(tf.function(craft)())
    # All but pixels whose slope is zero up to rounding, which has any sign.
    assert np.mean(np.abs(crafted[0] - crafted[1]) < 1e-6) > 0.99
    assert np.max(np.abs(crafted[0] - x)) > 0.01


# Memory


def test_eagerly_nothing_is_kept_between_the_passes():
    x, scale = tf.constant([2.0], tf.float64), tf.constant(1.0, tf.float64)
    for kept in (True, False):
        layer = cubic()
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, scale) if kept else recomputed(layer)([x], scale)
        assert (layer.seen() is not None) == kept
        np.testing.assert_allclose(tape.gradient(y, x), [36])


def _images_read_later(compute, alphas, batch):
    """How many batches of images of a computation its gradient in the alphas reads."""
    computation = set()

    def step():
        values = [variable.value for variable in alphas]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            y = compute()
        computation.update(y.graph.get_operations())
        return tape.gradient(y, values)

    graph = tf.function(step).get_concrete_function().graph
    later = [op for op in graph.get_operations() if op not in computation]
    read = {x.name: x for op in later for x in op.inputs if x.op in computation}
    return sum(x.shape.rank == 4 and x.shape[0] == batch for x in read.values())


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
def test_the_backward_pass_reads_what_cells_read(training):
    x = tf.ones((7, 8, 8, 3))
    plain, again = (
        _images_read_later(lambda m=m: m(x, training=training), m.alphas, 7)
        for m in _search_models()
    )
    # The stem's output and the first of two cells'.
    assert again == 2
    assert plain > 10


def test_a_gradient_of_gradients_reads_what_cells_and_their_gradients_read():
    x, y = tf.ones((7, 8, 8, 3)), tf.zeros(7, tf.int32)
    plain, again = (
        _images_read_later(lambda m=m: input_gradient(m, x, y), m.alphas, 7)
        for m in _search_models()
    )
    # Beside those two, gradients in the cells' outputs and in the stem's.
    assert again <= 6
    assert plain > 20


def _leads_to(source, operation):
    """Whether an operation waits for another one."""
    waiting, seen = [operation], set()
    while waiting:
        operation = waiting.pop()
        if operation not in seen:
            seen.add(operation)
            waiting += [*operation.control_inputs, *(t.op for t in operation.inputs)]
    return source in seen


def test_the_second_run_waits_for_the_backward_pass():
    layer, spec = cubic(), tf.TensorSpec((2,), tf.float64)

    @tf.function
    def step(x, dy):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = recomputed(layer)([x], tf.constant(1.0, tf.float64))
        return tape.gradient(y, x, dy)

    graph = step.get_concrete_function(spec, spec).graph
    upstream = graph.inputs[1].op
    runs = [op for op in graph.get_operations() if op.type == "Square"]
    assert [_leads_to(upstream, run) for run in runs] == [False, True]


def test_without_a_tape_nothing_is_added():
    x = tf.ones((2, 8, 8, 3))
    counts = []
    for model in _search_models():
        forward = tf.function(lambda model=model: model(x, training=False))
        graph = forward.get_concrete_function().graph
        counts.append([op.type for op in graph.get_operations()].count("IdentityN"))
    assert counts[0] == counts[1]


def test_the_option_is_saved(tmp_path):
    network = tiny_network(recompute_cells=True)
    network.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    assert loaded.get_config()["recompute_cells"]
    assert not tiny_network().get_config()["recompute_cells"]
