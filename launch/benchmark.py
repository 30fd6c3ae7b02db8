"""Times the steps of a search and of a fit: python launch/benchmark.py.

With --operations, shows where the time of one of each goes.
"""

import enum
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple

from absl import flags

import console

with console.starting():
    from advrush_tf.errors import UserError
    from advrush_tf.nn.cell_network import CellNetwork
    from advrush_tf.runs import operations, profiling
    from advrush_tf.runs.flags import run
    from advrush_tf.runs.processes import working_processes
    from advrush_tf.search.model import AdvRushSearchModel


class Part(enum.StrEnum):
    """The part of the work that is timed."""

    SEARCH = "search"
    FIT = "fit"


# The official recipes.
_SIZES: Mapping[Part, Mapping[str, int]] = {
    Part.SEARCH: {"init_channels": 16, "num_cells": 8, "batch_size": 32},
    Part.FIT: {"init_channels": 36, "num_cells": 20, "batch_size": 64},
}

_PARTS = flags.DEFINE_multi_enum_class(
    "part",
    list(Part),
    Part,
    "Part to time, may be repeated: the search's supernet, the fit of ADVRUSH.",
)
for _name, _help in {
    "init_channels": "Channels of the first cell; by default the official recipe's.",
    "num_cells": "Number of cells; by default the official recipe's.",
    "batch_size": "Images per batch; by default the official recipe's.",
}.items():
    flags.DEFINE_integer(_name, None, _help, lower_bound=1)
_RECOMPUTE = flags.DEFINE_multi_enum(
    "recompute_cells",
    ["false"],
    ["false", "true"],
    "Run each cell again in the backward pass or not, may be repeated.",
)
_PENALTY_BATCH = flags.DEFINE_multi_integer(
    "penalty_batch",
    [0],
    "Images of the penalty at a time, 0 for a search's default, may be repeated.",
    lower_bound=0,
)
_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", 32, "Side of the RGB images in pixels.", lower_bound=8
)
_REPEATS = flags.DEFINE_integer(
    "repeats",
    5,
    "Measured steps after the first one; --operations takes one.",
    lower_bound=1,
)
_JIT_COMPILE = flags.DEFINE_bool(
    "jit_compile", False, "Compile with XLA, all but the search's penalty."
)
_OPERATIONS = flags.DEFINE_bool(
    "operations",
    False,
    "Show instead where each step's time goes, by kind of operation; on processors.",
)
_CLASSES = 10


class Row(NamedTuple):
    """One kind of step, and how its memory is saved.

    Attributes:
        part: what it is a step of.
        kind: one of the part's kinds.
        recompute_cells: see `Supernet`.
        penalty_batch: see `AdvRushSearchModel.compile`; 0 is its default.
    """

    part: Part
    kind: str
    recompute_cells: bool
    penalty_batch: int

    @property
    def label(self) -> str:
        """The kind and its options, in words."""
        options = self.kind
        if self.penalty_batch:
            options += f", {self.penalty_batch} at a time"
        return options + (", recomputed" if self.recompute_cells else "")


def rows() -> Iterator[Row]:
    """The rows that the flags ask for."""
    for part in _PARTS.value:
        pieces = _PENALTY_BATCH.value if part is Part.SEARCH else [0]
        for kind in profiling.FIT_PARTS if part is Part.FIT else profiling.STEPS:
            penalised = "penalty_gradients" in profiling.STEPS.get(kind, ())
            for recompute in _RECOMPUTE.value:
                for piece in pieces if penalised else [0]:
                    yield Row(part, kind, recompute == "true", piece)


def sizes_of(part: Part) -> dict[str, int]:
    """The sizes that the flags give, by default the official recipe's.

    Raises:
        UserError: a piece of the penalty does not divide the batch.
    """
    sizes = {name: flags.FLAGS[name].value or n for name, n in _SIZES[part].items()}
    for piece in _PENALTY_BATCH.value if part is Part.SEARCH else []:
        if piece and sizes["batch_size"] % piece:
            raise UserError(
                f"--penalty_batch is {piece}; it must be 0 or a divisor of batch_size, "
                f"{sizes['batch_size']}."
            )
    return sizes


def functions_of(row: Row, values: Mapping[str, Any]) -> list[Any]:
    """The compiled functions of (x, y) of a kind of step."""
    size = values["init_channels"], values["num_cells"]
    side, jit_compile = values["image_size"], values["jit_compile"]
    if row.part is Part.FIT:
        network = CellNetwork(
            "ADVRUSH",
            _CLASSES,
            (side, side, 3),
            *size,
            recompute_cells=row.recompute_cells,
        )
        return [profiling.fit_part(network, row.kind, jit_compile)]
    model = AdvRushSearchModel(
        _CLASSES, (side, side, 3), *size, recompute_cells=row.recompute_cells
    )
    model.compile(penalty_batch=row.penalty_batch or None, jit_compile=jit_compile)
    return profiling.search_step(model, row.kind)


def measure(row: Row, values: Mapping[str, Any]) -> profiling.StepCost:
    """Measures one kind of step; runs in a new process, for its peak memory."""
    side, batch_size, repeats = (
        values[name] for name in ("image_size", "batch_size", "repeats")
    )
    functions = functions_of(row, values)
    return profiling.measure(functions, (side, side, 3), _CLASSES, batch_size, repeats)


def profile(row: Row, values: Mapping[str, Any]) -> str:
    """The table of a step's operations; runs in a new process, one at a time."""
    operations.one_at_a_time()
    side = values["image_size"]
    batch = profiling.random_batch((side, side, 3), _CLASSES, values["batch_size"])
    # At once: operations in a loop are taken for an attack's.
    row = row._replace(penalty_batch=row.penalty_batch or values["batch_size"])
    costs = operations.profile(functions_of(row, values), *batch)
    return operations.as_table(costs, operations.measure_limits())


def _in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    with working_processes(1) as pool:
        return pool.submit(function, *arguments).result()


def main() -> None:
    """Prints a table of the cost of each kind of step, or of each one's operations."""
    sizes = {part: sizes_of(part) for part in _PARTS.value}
    flagged = _IMAGE_SIZE, _REPEATS, _JIT_COMPILE
    common = {flag.name: flag.value for flag in flagged}
    if _OPERATIONS.value:
        operations.check_processor()
        if _JIT_COMPILE.value:
            raise UserError(
                "--operations cannot look into what --jit_compile makes; give one of "
                "the two."
            )
        for row in rows():
            table = _in_own_process(profile, row, common | sizes[row.part])
            print(f"{row.part}, {row.label}\n\n{table}\n", flush=True)
        return
    print(
        "| part | step | graph nodes | tracing, s | first run, s | step, s | "
        "peak memory, GB |\n|---|---|---|---|---|---|---|"
    )
    for row in rows():
        start = f"| {row.part} | {row.label} |"
        try:
            cost = _in_own_process(measure, row, common | sizes[row.part])
        except BrokenProcessPool:
            print(f"{start} | | | | more than there is |", flush=True)
            continue
        print(
            f"{start} {cost.graph_nodes:,} | {cost.trace_seconds:.1f} "
            f"| {cost.first_seconds:.1f} | {cost.seconds:.3f} "
            f"| {cost.peak_bytes / 1e9:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    run(main, console.held_back)
