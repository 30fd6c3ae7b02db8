"""Times the parts of a search step: python launch/benchmark.py --init_channels=16."""

import sys

from absl import app, flags

from advrush_tf import profiling
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


def main(argv: list[str]) -> None:
    """Prints a table of the cost of each part of a step."""
    del argv
    side = _IMAGE_SIZE.value
    model = AdvRushSearchModel(
        10, (side, side, 3), _INIT_CHANNELS.value, _NUM_CELLS.value
    )
    model.compile()
    print("| part | first step, s | step, s | graph nodes | peak memory, GB |")
    print("|---|---|---|---|---|")
    for cost in profiling.measure_steps(model, _BATCH_SIZE.value, _REPEATS.value):
        print(
            f"| {cost.name} | {cost.first_seconds:.1f} | {cost.seconds:.3f} | "
            f"{cost.graph_nodes:,} | {cost.peak_bytes / 1e9:.2f} |",
            flush=True,
        )


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the flags; a wrong one ends the program with one line and code 2."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
