"""Searches for a robust architecture: python launch/search.py --dataset=cifar10."""

import console

with console.starting():
    from advrush_tf.runs import dry_runs
    from advrush_tf.runs import search as search_run
    from advrush_tf.runs.flags import (
        define_data_dir,
        define_devices,
        define_dry_run,
        define_settings,
        define_workdir,
        run,
    )
    from advrush_tf.runs.search_settings import SearchSettings

_WORKDIR = define_workdir("runs/search")
_DATA_DIR = define_data_dir()
_DEVICES = define_devices(console.held_back)
_DRY_RUN = define_dry_run("search")
_VALUES = define_settings(SearchSettings)


def main() -> None:
    """Runs or measures the search that the flags describe."""
    settings, devices = SearchSettings(**_VALUES()), _DEVICES()
    if _DRY_RUN.value:
        dry_runs.search_dry_run(settings, _DATA_DIR.value)
    else:
        search_run.run_search(settings, _WORKDIR.value, _DATA_DIR.value, devices)


if __name__ == "__main__":
    run(main, console.held_back)
