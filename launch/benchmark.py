"""Times the parts of a search step: python launch/benchmark.py --init_channels=16."""

import concurrent.futures
import multiprocessing
import sys
from pathlib import Path

from absl import app, flags

from advrush_tf import profiling
from advrush_tf.launching import parse_flags
from advrush_tf.search import AdvRushSearchModel

_INIT_CHANNELS = flags.DEFINE_integer(
    "init_channels", 16, "Channels of the first cell.", lower_bound=1
)
_NUM_CELLS = flags.DEFINE_integer("num_cells", 8, "Number of cells.", lower_bound=1)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Images per batch.", lower_bound=1)
_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", 32, "Side of the RGB images in pixels.", lower_bound=8
)
_REPEATS = flags.DEFINE_integer(
    "repeats", 5, "Measured steps after the first one.", lower_bound=1
)
_PER_EDGE = flags.DEFINE_bool(
    "per_edge",
    True,
    "Also time the supernet computed edge by edge (tests/per_edge.py).",
)
_JIT_COMPILE = flags.DEFINE_bool(
    "jit_compile", False, "Compile with XLA, all but the penalty."
)


def measure(kind: str, per_edge: bool, values: dict) -> profiling.StepCost:
    """Measures one kind of step; runs in a process of its own, for its peak memory."""
    model_class = AdvRushSearchModel
    if per_edge:
        # The reference belongs to the tests, which are not installed.
        sys.path.append(str(Path(__file__).parent.parent / "tests"))
        from per_edge import PerEdgeSearchModel

        model_class = PerEdgeSearchModel
    side = values["image_size"]
    model = model_class(
        10, (side, side, 3), values["init_channels"], values["num_cells"]
    )
    model.compile(jit_compile=values["jit_compile"])
    return profiling.measure_search_step(
        model, kind, values["batch_size"], values["repeats"]
    )


def _in_own_process(*arguments) -> profiling.StepCost:
    with concurrent.futures.ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn")
    ) as pool:
        return pool.submit(measure, *arguments).result()


def main(argv: list[str]) -> None:
    """Prints a table of the cost of each kind of step."""
    del argv
    values = {
        flag.name: flag.value
        for flag in (
            *(_INIT_CHANNELS, _NUM_CELLS, _BATCH_SIZE, _IMAGE_SIZE, _REPEATS),
            _JIT_COMPILE,
        )
    }
    print(
        "| supernet | step | graph nodes | tracing, s | first run, s | step, s | "
        "peak memory, GB |\n|---|---|---|---|---|---|---|"
    )
    for per_edge in (False, True) if _PER_EDGE.value else (False,):
        for kind in profiling.STEPS:
            name = "edge by edge" if per_edge else "batched"
            try:
                cost = _in_own_process(kind, per_edge, values)
            except concurrent.futures.process.BrokenProcessPool:
                print(f"| {name} | {kind} | | | | | more than there is |", flush=True)
                continue
            print(
                f"| {name} | {kind} | {cost.graph_nodes:,} | {cost.trace_seconds:.1f} "
                f"| {cost.first_seconds:.1f} | {cost.seconds:.3f} "
                f"| {cost.peak_bytes / 1e9:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
