"""Compares searched, random and published cells over seeds: python launch/study.py."""

import sys

from absl import flags

import console

with console.starting():
    from advrush_tf.runs import dry_runs
    from advrush_tf.runs import study as study_run
    from advrush_tf.runs.flags import (
        define_data_dir,
        define_settings,
        define_workdir,
        run,
    )
    from advrush_tf.runs.recipes import recipe_defaults
    from advrush_tf.runs.study_settings import OWN, STAGES, StudySettings

_WORKDIR = define_workdir("runs/study")
_DATA_DIR = define_data_dir()
_DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Only measure and print what the study would cost."
)
_PROCESSES = flags.DEFINE_integer(
    "processes",
    1,
    "Runs at a time, each in a process with its share of the cores and GPUs.",
    lower_bound=1,
)
_VALUES = define_settings(StudySettings)
_STAGES = {
    stage: define_settings(
        kind, recipe_defaults() if stage == "fit" else None, f"{stage}_", OWN
    )
    for stage, kind in STAGES.items()
}


def main() -> None:
    """Runs or measures the study that the flags describe."""
    values = _VALUES() | {stage: given() for stage, given in _STAGES.items()}
    settings = StudySettings(**values)
    if _DRY_RUN.value:
        dry_runs.study_dry_run(settings, _DATA_DIR.value)
    else:
        results = study_run.run_study(
            settings, _WORKDIR.value, _DATA_DIR.value, processes=_PROCESSES.value
        )
        sys.exit(1 if results["failures"] else 0)


if __name__ == "__main__":
    run(main, console.held_back)
