"""What a search will cost: parameters, multiply-adds, seconds and memory per step."""

import resource
import time
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from advrush_tf.blocks import RectangularBlock
from advrush_tf.search import AdvRushSearchModel
from advrush_tf.supernet import SearchCell, Supernet


class StepCost(NamedTuple):
    """Cost of one kind of step.

    Attributes:
        name: weights, alphas or penalty.
        first_seconds: the first step: tracing, optimising and running.
        seconds: median of the following steps.
        graph_nodes: operations in the traced graph.
        peak_bytes: the process' peak memory after these steps.
    """

    name: str
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


def measure_steps(
    model: AdvRushSearchModel, batch_size: int, repeats: int = 3
) -> list[StepCost]:
    """Runs each kind of step on random images and measures it.

    The model's state changes: use a model made for the purpose.

    Args:
        model: a compiled model.
        batch_size: images per batch.
        repeats: measured steps after the first.

    Returns:
        The cost of the weight step, the alpha step and what the penalty adds to it
        (left out where gamma is 0).
    """
    rng = np.random.default_rng(0)
    shape = (batch_size, *model.image_shape)
    x = tf.constant(rng.random(shape), tf.float32)
    y = tf.constant(rng.integers(model.num_classes, size=batch_size), tf.int32)
    names = {"weights": "update_weights", "alphas": "alpha_gradients"}
    if model.gamma > 0:
        names["penalty"] = "penalty_gradients"
    return [
        _measure(name, model.steps[step], (x, y), repeats)
        for name, step in names.items()
    ]


def _measure(name: str, step: Any, inputs: tuple, repeats: int) -> StepCost:
    started = time.perf_counter()
    tf.nest.map_structure(_wait, step(*inputs))
    first = time.perf_counter() - started
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        tf.nest.map_structure(_wait, step(*inputs))
        seconds.append(time.perf_counter() - started)
    nodes = len(step.get_concrete_function(*inputs).graph.get_operations())
    return StepCost(name, first, float(np.median(seconds)), nodes, peak_memory())


def _wait(value: Any) -> None:
    np.asarray(value)


def peak_memory() -> int:
    """Peak memory in bytes: of the first GPU where there is one, else the process'."""
    if tf.config.list_physical_devices("GPU"):
        return tf.config.experimental.get_memory_info("GPU:0")["peak"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
