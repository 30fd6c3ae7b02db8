"""What a search will cost: parameters, multiply-adds, seconds and memory per step."""

import resource
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from advrush_tf.blocks import RectangularBlock
from advrush_tf.search import AdvRushSearchModel
from advrush_tf.supernet import SearchCell, Supernet

# Each kind of step and the compiled parts of a search model that it runs.
STEPS = {
    "weights": ("update_weights",),
    "alphas": ("alpha_gradients",),
    "penalised alphas": ("alpha_gradients", "penalty_gradients"),
}


class StepCost(NamedTuple):
    """Cost of one kind of step.

    Attributes:
        trace_seconds: building the graph.
        first_seconds: the first run: optimising the graph and running it.
        seconds: median of the following runs.
        graph_nodes: operations in the traced graphs.
        peak_bytes: the process' peak memory up to now.
    """

    trace_seconds: float
    first_seconds: float
    seconds: float
    graph_nodes: int
    peak_bytes: int


def count_parameters(model: AdvRushSearchModel) -> int:
    """Number of trainable weights without the alphas."""
    return sum(int(np.prod(weight.shape)) for weight in model.network_weights)


def multiply_adds(model: AdvRushSearchModel) -> int:
    """Multiply-adds of all convolutions and the classifier for one image.

    Every kernel of a cell's edges is applied at the cell's output resolution, those
    of its preprocessing at the resolution of its second input.
    """
    supernet: Supernet = model.supernet
    height, width = model.image_shape[:2]
    total = height * width * _size(supernet.stem.kernel)
    for cell in supernet.cells:
        kernels = sum(_size(layer.convolution.kernel) for layer in cell.preprocess)
        total += height * width * kernels
        if cell.reduction:
            height, width = -(-height // 2), -(-width // 2)
        total += height * width * _edge_kernels(cell)
    return total + _size(supernet.classifier.kernel)


def _edge_kernels(cell: SearchCell) -> int:
    names = ("kernel", "depthwise", "horizontal")
    total = 0
    for mixed in cell.edges:
        total += sum(_size(v) for v in mixed.variables if v.name in names)
        for block in mixed.convolutions.values():
            if isinstance(block, RectangularBlock) and mixed.stride == 2:
                # Its first kernel halves the width only.
                total += _size(block.horizontal)
    return total


def _size(variable: Any) -> int:
    return int(np.prod(variable.shape))


def measure_step(
    model: AdvRushSearchModel, kind: str, batch_size: int, repeats: int = 3
) -> StepCost:
    """Runs one kind of step on random images and measures it.

    The model's state changes: use a model made for the purpose.

    Args:
        model: a compiled model.
        kind: one of `STEPS`.
        batch_size: images per batch.
        repeats: measured runs after the first.
    """
    rng = np.random.default_rng(0)
    shape = (batch_size, *model.image_shape)
    x = tf.constant(rng.random(shape), tf.float32)
    y = tf.constant(rng.integers(model.num_classes, size=batch_size), tf.int32)
    steps = [model.steps[name] for name in STEPS[kind]]

    def run(x, y):
        # As arrays, which waits for them.
        return tf.nest.map_structure(np.asarray, [step(x, y) for step in steps])

    trace, graphs = _timed(
        lambda: [step.get_concrete_function(x, y).graph for step in steps]
    )
    first, *others = (_timed(lambda: run(x, y))[0] for _ in range(1 + repeats))
    nodes = sum(len(graph.get_operations()) for graph in graphs)
    return StepCost(trace, first, float(np.median(others)), nodes, peak_memory())


def measure_evaluation(model: AdvRushSearchModel, batch_size: int) -> float:
    """Seconds to evaluate one batch of images, once compiled."""
    images = np.zeros((batch_size, *model.image_shape), np.float32)
    model.predict_on_batch(images)
    return _timed(lambda: model.predict_on_batch(images))[0]


def _timed(function: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = function()
    return time.perf_counter() - started, result


def peak_memory() -> int:
    """Peak memory in bytes: of the first GPU where there is one, else the process'."""
    if tf.config.list_physical_devices("GPU"):
        return tf.config.experimental.get_memory_info("GPU:0")["peak"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
