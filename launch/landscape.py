"""Measures how curved the loss is: python launch/landscape.py --model=model.keras."""

from pathlib import Path

import console

with console.starting():
    from advrush_tf.errors import UserError
    from advrush_tf.runs import landscape
    from advrush_tf.runs.flags import (
        define_data_dir,
        define_path,
        define_paths,
        define_settings,
        define_workdir,
        run,
    )
    from advrush_tf.runs.landscape_settings import LandscapeSettings

_WORKDIR = define_workdir("runs/landscape")
_DATA_DIR = define_data_dir()
_VALUES = define_settings(LandscapeSettings)
_RUNS = define_paths(
    "run",
    "A workdir of a search, a fit, an evaluation or an inspection that the report "
    "shows; of a search the history is drawn. May be repeated.",
)
_REPORT = define_path(
    "report", None, "An HTML file to write: all that --run and --model gave, on a page."
)


def main() -> None:
    """Inspects the models, and writes the report, that the flags describe."""
    values, runs = _VALUES(), [Path(run) for run in _RUNS.value]
    if not values["model"] and not runs:
        raise UserError(
            "Nothing to inspect: give --model=PATH (a .keras file or a search's "
            "workdir) or --run=WORKDIR, each as often as wanted."
        )
    report = Path(_REPORT.value) if _REPORT.value else None
    settings = LandscapeSettings(**values) if values["model"] else None
    landscape.run_landscape(
        settings, Path(_WORKDIR.value), runs, report, _DATA_DIR.value
    )


if __name__ == "__main__":
    run(main, console.held_back)
