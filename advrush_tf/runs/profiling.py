"""Costs of a run: parameters, multiply-adds, seconds and memory per step."""

import resource
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from advrush_tf.fit.model import AdvRushFitModel
from advrush_tf.fit.objectives import PGD, Objective, Standard
from advrush_tf.nn.mixed_op import MIXING
from advrush_tf.search.model import AdvRushSearchModel
from advrush_tf.search.penalty import input_gradient

# Each kind of step and the compiled parts of a search model that it runs.
STEPS = {
    "weights": ("update_weights",),
    "alphas": ("alpha_gradients",),
    "penalised alphas": ("alpha_gradients", "penalty_gradients"),
}
# What a fit is made of: the pass of each attack step, and whole steps of objectives.
FIT_PARTS: dict[str, Objective | None] = {
    "input gradient": None,
    "standard": Standard(),
    "pgd": PGD(),
}


class StepCost(NamedTuple):
    """Cost of one kind of step.

    Attributes:
        trace_seconds: building the graph.
        first_seconds: the first run: optimising the graph and running it.
        seconds: median of the following runs.
        graph_nodes: operations in the traced graphs.
        peak_bytes: the process' peak memory up to the end of these runs.
    """

    trace_seconds: float
    first_seconds: float
    seconds: float
    graph_nodes: int
    peak_bytes: int


def count_parameters(weights: Sequence[Any]) -> int:
    """Number of values in some weights."""
    return sum(int(np.prod(weight.shape)) for weight in weights)


def multiply_adds(model: Any) -> int:
    """Multiply-adds of all convolutions and dense layers for one image.

    They are counted in the graph of the model's inference, so that this holds for any
    classifier.

    Args:
        model: a model with an `image_shape`.
    """
    image = tf.TensorSpec((1, *model.image_shape), tf.float32)
    forward = tf.function(lambda x: model(x, training=False), autograph=False)
    operations = forward.get_concrete_function(image).graph.get_operations()
    return sum(_multiply_adds(operation) for operation in operations)


def _multiply_adds(operation: tf.Operation) -> int:
    # As in the official count, to mix a supernet's candidates costs nothing.
    if operation.type not in _PRODUCTS or MIXING in operation.name:
        return 0
    output, kernel = operation.outputs[0], operation.inputs[1].shape
    for consumer in output.consumers():
        # A dilated convolution runs on pieces of the image, padded to one size.
        if consumer.type == "BatchToSpaceND":
            output = consumer.outputs[0]
    per_value = {
        "Conv2D": kernel[:-1],
        "DepthwiseConv2dNative": kernel[:2],
        "MatMul": kernel[:1],
    }
    return output.shape.num_elements() * per_value[operation.type].num_elements()


_PRODUCTS = ("Conv2D", "DepthwiseConv2dNative", "MatMul")


def measure(
    functions: Sequence[Any],
    image_shape: Sequence[int],
    num_classes: int,
    batch_size: int,
    repeats: int = 3,
) -> StepCost:
    """Runs compiled functions of (x, y) one after the other and measures them.

    Args:
        functions: `tf.function`s.
        image_shape: of the random images.
        num_classes: of the random labels.
        batch_size: images per batch.
        repeats: measured runs after the first.
    """
    x, y = random_batch(image_shape, num_classes, batch_size)

    def run(x, y):
        # As arrays, which waits for them.
        return tf.nest.map_structure(np.asarray, [step(x, y) for step in functions])

    trace, graphs = _timed(
        lambda: [step.get_concrete_function(x, y).graph for step in functions]
    )
    first, *others = (_timed(lambda: run(x, y))[0] for _ in range(1 + repeats))
    peak = peak_memory()  # Before the graphs are written out to count their nodes.
    nodes = sum(_count_nodes(graph) for graph in graphs)
    return StepCost(trace, first, float(np.median(others)), nodes, peak)


def random_batch(
    image_shape: Sequence[int], num_classes: int, batch_size: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Random images in [0, 1] and labels, always the same.

    Args:
        image_shape: (height, width, channels).
        num_classes: number of classes.
        batch_size: number of images.
    """
    rng = np.random.default_rng(0)
    x = tf.constant(rng.random((batch_size, *image_shape)), tf.float32)
    y = tf.constant(rng.integers(num_classes, size=batch_size), tf.int32)
    return x, y


def _count_nodes(graph: Any) -> int:
    """Operations of a graph and of the loop bodies in it."""
    definition = graph.as_graph_def()
    functions = definition.library.function
    return len(definition.node) + sum(len(f.node_def) for f in functions)


def measure_search_step(
    model: AdvRushSearchModel, kind: str, batch_size: int, repeats: int = 3
) -> StepCost:
    """Measures one kind of step of a search on random images.

    The model's state changes: use a model made for the purpose.

    Args:
        model: a compiled model.
        kind: one of `STEPS`.
        batch_size: images per batch.
        repeats: measured runs after the first.
    """
    return measure(
        search_step(model, kind),
        model.image_shape,
        model.num_classes,
        batch_size,
        repeats,
    )


def search_step(model: AdvRushSearchModel, kind: str) -> list[Any]:
    """The `tf.function`s of (x, y) that a kind of step of a search runs.

    Args:
        model: a compiled model.
        kind: one of `STEPS`.
    """
    return [model.steps[name] for name in STEPS[kind]]


def measure_fit_step(
    model: AdvRushFitModel, batch_size: int, repeats: int = 3
) -> StepCost:
    """Measures one step of a fit on random images.

    The model's state changes: use a model made for the purpose.

    Args:
        model: a compiled model of a network with `image_shape` and `num_classes`.
        batch_size: images per batch.
        repeats: measured runs after the first.
    """
    network = model.network
    return measure(
        [_fit_step(model)],
        network.image_shape,
        network.num_classes,
        batch_size,
        repeats,
    )


def _fit_step(model: AdvRushFitModel) -> Any:
    return tf.function(
        lambda x, y: model.train_step((x, y)),
        autograph=False,
        jit_compile=model.jit_compile,
    )


def fit_part(network: Any, kind: str, jit_compile: bool = False) -> Any:
    """A fit's step, or the pass that each of its attack's steps takes, as a function.

    Args:
        network: a model with `image_shape` and `num_classes`; its state changes.
        kind: one of `FIT_PARTS`.
        jit_compile: whether to compile with XLA.

    Returns:
        A `tf.function` of (x, y).
    """
    if (objective := FIT_PARTS[kind]) is not None:
        model = AdvRushFitModel(network, objective)
        model.compile(jit_compile=jit_compile)
        return _fit_step(model)
    return tf.function(
        lambda x, y: input_gradient(lambda z: network(z, training=False), x, y),
        autograph=False,
        jit_compile=jit_compile,
    )


def measure_evaluation(model: Any, batch_size: int) -> float:
    """Seconds to evaluate one batch of images, once compiled.

    Args:
        model: a compiled model with `image_shape`.
        batch_size: images per batch.
    """
    x = np.zeros((batch_size, *model.image_shape), np.float32)
    y = np.zeros(batch_size, np.int32)
    model.test_on_batch(x, y)
    return _timed(lambda: model.test_on_batch(x, y))[0]


def measure_input(batches: Iterable[Any], count: int = 100) -> float:
    """Seconds that the input pipeline takes for a batch, when nothing else runs.

    Args:
        batches: without an end.
        count: batches that are timed, after as many that are not.
    """
    iterator = iter(batches)

    def draw() -> None:
        for _ in range(count):
            next(iterator)

    draw()
    return _timed(draw)[0] / count


def _timed(function: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = function()
    return time.perf_counter() - started, result


def peak_memory() -> int:
    """Peak memory in bytes: of the first GPU where there is one, else the process'."""
    if tf.config.list_physical_devices("GPU"):
        return tf.config.experimental.get_memory_info("GPU:0")["peak"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
