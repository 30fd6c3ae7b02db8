"""Fits a genotype's network: python launch/fit.py --genotype=ADVRUSH."""

import console

with console.starting():
    from advrush_tf.runs import dry_runs
    from advrush_tf.runs import fit as fit_run
    from advrush_tf.runs.fit_settings import FitSettings
    from advrush_tf.runs.flags import (
        define_data_dir,
        define_devices,
        define_dry_run,
        define_settings,
        define_workdir,
        run,
    )
    from advrush_tf.runs.recipes import fit_settings, recipe_defaults

_WORKDIR = define_workdir("runs/fit")
_DATA_DIR = define_data_dir()
_DEVICES = define_devices(console.held_back)
_DRY_RUN = define_dry_run("fit")
_VALUES = define_settings(FitSettings, recipe_defaults())


def main() -> None:
    """Runs or measures the fit that the flags describe."""
    settings, devices = fit_settings(**_VALUES()), _DEVICES()
    if _DRY_RUN.value:
        dry_runs.fit_dry_run(settings, _DATA_DIR.value)
    else:
        fit_run.run_fit(settings, _WORKDIR.value, _DATA_DIR.value, devices)


if __name__ == "__main__":
    run(main, console.held_back)
