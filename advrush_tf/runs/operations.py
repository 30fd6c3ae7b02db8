"""Where a step's time goes, by kind of operation, beside the machine's limits."""

import collections
import functools
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from advrush_tf.errors import UserError
from advrush_tf.search.penalty import INPUT_GRADIENT

# What TensorFlow's optimiser puts before the name of an operation that it replaces.
_REPLACED = re.compile("^_(Mkl)?(Native)?(Fused(?!BatchNorm))?")
_GRADIENT = "gradient_tape"
_OF_INPUT_GRADIENT = f"{_GRADIENT}/{INPUT_GRADIENT}"
# Axes of a kernel over which one value of a result sums.
_KERNEL_AXES = {"Conv2D": 3, "DepthwiseConv2dNative": 2}


class Limits(NamedTuple):
    """The speeds that the machine reaches on plain work, with all its cores.

    Attributes:
        bandwidth: bytes a second that the sum of two large tensors moves.
        products: multiply-adds a second of a large float32 matrix product.
    """

    bandwidth: float
    products: float


class OperationCost(NamedTuple):
    """Cost of all operations of one kind in a step.

    Attributes:
        part: forward or gradient; of an input gradient, whose own gradient is a second
            derivative, "input's forward" or "input's gradient"; of a loop "attack's".
        kind: TensorFlow's name of the kind.
        number: how many there are.
        seconds: they take, one after the other.
        moved: bytes of all their inputs and outputs.
        multiply_adds: of convolutions and products.
    """

    part: str
    kind: str
    number: int
    seconds: float
    moved: int
    multiply_adds: int

    def least_seconds(self, limits: Limits) -> float:
        """Seconds that a machine of such limits needs for it at least."""
        return max(self.moved / limits.bandwidth, self.multiply_adds / limits.products)


def measure_limits(side: int = 2048, repeats: int = 5) -> Limits:
    """Measures the machine's limits, the best of several repeats.

    Args:
        side: of the square float32 matrices, of which the sum takes 8 times as much.
    """
    x, y = (tf.random.stateless_uniform((8 * side, side), (i, 0)) for i in range(2))
    square = x[:side]

    def best(function: Callable[[], tf.Tensor]) -> float:
        return min(_seconds(function) for _ in range(1 + repeats))

    return Limits(
        3 * 4 * 8 * side**2 / best(lambda: x + y),
        side**3 / best(lambda: square @ square),
    )


def _seconds(function: Callable[[], tf.Tensor]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def _times(seconds: float, least: float) -> str:
    """Returns how many times the least it took, or nothing if no shape is known."""
    return f"{seconds / least:.1f}" if least else ""


def check_processor() -> None:
    """Raises where there is a GPU, whose operations this does not time.

    Raises:
        UserError: TensorFlow sees a GPU.
    """
    if tf.config.list_physical_devices("GPU"):
        raise UserError(
            "--operations times a processor's operations, and TensorFlow sees a GPU; "
            "hide it with CUDA_VISIBLE_DEVICES=-1."
        )


def one_at_a_time() -> None:
    """Lets operations run one after the other; before TensorFlow's first one."""
    tf.config.threading.set_inter_op_parallelism_threads(1)


def as_table(costs: Sequence[OperationCost], limits: Limits) -> str:
    """The costs as a table in Markdown, with what is below a hundredth as one line."""
    total = sum(cost.seconds for cost in costs)
    shown = [cost for cost in costs if cost.seconds >= total / 100]
    lines = [
        "| pass | operation | number | seconds | share | GB moved | G multiply-adds "
        "| times the least |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {cost.part} | {cost.kind} | {cost.number} | {cost.seconds:.3f} "
        f"| {cost.seconds / total:.1%} | {cost.moved / 1e9:.2f} "
        f"| {cost.multiply_adds / 1e9:.2f} "
        f"| {_times(cost.seconds, cost.least_seconds(limits))} |"
        for cost in shown
    ]
    rest = total - sum(cost.seconds for cost in shown)
    return "\n".join(
        [
            *lines,
            f"| | all others | | {rest:.3f} | {rest / total:.1%} | | | |",
            "",
            f"{total:.3f} s, one operation at a time. The least is what "
            f"{limits.bandwidth / 1e9:.0f} GB and {limits.products / 1e9:.0f} "
            "G multiply-adds a second allow, as measured here.",
        ]
    )


def profile(
    functions: Sequence[Any], x: tf.Tensor, y: tf.Tensor
) -> list[OperationCost]:
    """Runs compiled functions once more and sums what each kind of operation took.

    Operations share the processor's cores, and where several run at once each takes
    longer: see `one_at_a_time`.

    Args:
        functions: `tf.function`s of (x, y), run one after the other.
        x: images; static shapes tell what an operation moves.
        y: labels.

    Returns:
        The costs, the dearest first.
    """
    totals: dict[tuple[str, str], np.ndarray] = collections.defaultdict(
        lambda: np.zeros(4)
    )
    for function in functions:
        graph = function.get_concrete_function(x, y).graph
        named = {
            operation.name: (operation, of) for operation, of in _operations(graph)
        }
        run = functools.partial(_run, function, x, y)
        run()
        for name, kind, seconds in _events(run):
            if (found := _find(name, named)) is None:
                continue
            operation, part = found
            kind = _REPLACED.sub("", kind)
            products = _multiply_adds(operation, kind)
            totals[part, kind] += 1, seconds, _bytes_moved(operation), products
    return sorted(
        (
            OperationCost(*key, int(count), seconds, int(moved), int(products))
            for key, (count, seconds, moved, products) in totals.items()
        ),
        key=lambda cost: -cost.seconds,
    )


def _run(function: Any, x: tf.Tensor, y: tf.Tensor) -> None:
    # As arrays, which waits for them.
    tf.nest.map_structure(np.asarray, function(x, y))


def _operations(graph: Any, of: str = "") -> Iterator[tuple[tf.Operation, str]]:
    """The operations of a graph and of the functions that it calls, with their pass."""
    operations = graph.get_operations()
    inner = _inner_places([operation.name for operation in operations])
    for place, operation in enumerate(operations):
        yield (
            operation,
            ("input's " if place in inner else of) + _direction(operation.name),
        )
        for attribute, whose in (("f", of), ("body", "attack's ")):
            if attribute in operation.node_def.attr:
                name = operation.get_attr(attribute).name
                yield from _operations(graph._get_function(name).graph, whose)


def _inner_places(names: Sequence[str]) -> range:
    """Which operations, in the order of their making, take input gradients."""
    places = [i for i, name in enumerate(names) if name.startswith(INPUT_GRADIENT)]
    if not places:
        return range(0)
    end = places[-1] + 1
    # The last ones' names are those of a tape.
    while names[end : end + 1] and names[end].startswith(_OF_INPUT_GRADIENT):
        end += 1
    return range(places[0], end)


def _direction(name: str) -> str:
    # Layers' names stand before those of their operations; gradients' have none.
    own = re.sub(f"^{INPUT_GRADIENT}[^/]*/", "", name)
    return "forward" if "/" in own and not own.startswith(_GRADIENT) else "gradient"


def _events(run: Callable[[], None]) -> Iterator[tuple[str, str, float]]:
    """Name, kind and seconds of each operation that a call runs."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    options = tf.profiler.experimental.ProfilerOptions(host_tracer_level=2)
    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder, options):
            run()
        (path,) = Path(folder).rglob("*.xplane.pb")
        space = xplane_pb2.XSpace.FromString(path.read_bytes())
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                name, _, kind = plane.event_metadata[event.metadata_id].name.rpartition(
                    ":"
                )
                if name:
                    yield name, kind, event.duration_ps / 1e12


def _find(name: str, named: dict[str, Any]) -> Any:
    """Returns the entry of a name without the calls before it, or None."""
    while name not in named:
        _, slash, name = name.partition("/")
        if not slash:
            return None
    return named[name]


def _bytes_moved(operation: tf.Operation) -> int:
    tensors = [*operation.inputs, *operation.outputs]
    return sum(
        (tensor.shape.num_elements() or 0) * tensor.dtype.size for tensor in tensors
    )


def _multiply_adds(operation: tf.Operation, kind: str) -> int:
    """Multiply-adds of a convolution, of one of its gradients, or of a product."""
    forward = re.sub("Backprop.*", "", kind)
    if forward not in ("MatMul", *_KERNEL_AXES):
        return 0
    while not operation.type.startswith(forward):
        # What the optimiser fuses has the name of the last operation.
        operation = operation.inputs[0].op
    if kind == "MatMul":
        left = operation.inputs[0].shape
        each = left[:1] if operation.get_attr("transpose_a") else left[1:]
        result = operation.outputs[0]
    else:
        if kind.endswith("BackpropFilter"):
            kernel, result = operation.outputs[0], operation.inputs[2]
        elif kind.endswith("BackpropInput"):
            kernel, result = operation.inputs[1], operation.inputs[2]
        else:
            kernel, result = operation.inputs[1], operation.outputs[0]
        each = kernel.shape[: _KERNEL_AXES[forward]]
    return (result.shape.num_elements() or 0) * (each.num_elements() or 0)
