"""Searches for a robust architecture: python launch/search.py --dataset=cifar10."""

import dataclasses
from typing import Any

from absl import flags

from advrush_tf.data.source import WELL_KNOWN
from advrush_tf.genotypes.search_space import ALL_PRIMITIVES
from advrush_tf.runs import dry_runs
from advrush_tf.runs import search as search_run
from advrush_tf.runs.flags import (
    SYNC_BATCH_NORM,
    define_data_dir,
    define_devices,
    define_dry_run,
    define_workdir,
    run,
)
from advrush_tf.runs.search_settings import SearchSettings
from advrush_tf.runs.settings import Precision
from advrush_tf.search.penalty import Penalty

_DEFAULTS = SearchSettings()

_WORKDIR = define_workdir("runs/search")
_DATA_DIR = define_data_dir()
_DEVICES = define_devices()
_DRY_RUN = define_dry_run("search")
flags.DEFINE_string(
    "dataset",
    _DEFAULTS.dataset,
    f"{', '.join(WELL_KNOWN)}, another tfds image classification set, or the path of a "
    "prepared tfds folder.",
)
for _name, _help in {
    "image_size": "Side of the images in pixels, where they have many sizes; then 224.",
    "batch_size": "Images per batch, of each half of the training data.",
    "epochs": "Length of the search.",
    "warmup_epochs": "Epochs before the penalty is switched on.",
    "init_channels": "Channels of the first cell.",
    "num_cells": "Number of cells of the supernet.",
    "num_nodes": "Intermediate nodes of a cell.",
    "stem_multiplier": "Width of the stem, in init_channels.",
    "cutout": "Side in pixels of the cutout square, 0 for none.",
    "penalty_batch": "Images of the penalty at a time, 0 for the whole batch.",
    "seed": "Seed of split, order, augmentation and initial weights.",
}.items():
    flags.DEFINE_integer(_name, getattr(_DEFAULTS, _name), _help)
for _name, _help in {
    "train_portion": "Share of the training data that trains the weights.",
    "learning_rate": "Initial learning rate of the weights.",
    "learning_rate_min": "End of the cosine of the weights' learning rate.",
    "momentum": "Momentum of the weights' SGD.",
    "weight_l2": "L2 coefficient of the weights.",
    "clip_norm": "Largest global norm of the weights' gradient, 0 for any.",
    "alpha_learning_rate": "Learning rate of the alphas' Adam.",
    "alpha_beta_1": "Decay of the mean gradient in the alphas' Adam.",
    "alpha_beta_2": "Decay of the mean square in the alphas' Adam.",
    "alpha_l2": "L2 coefficient of the alphas.",
    "gamma": "Weight of the curvature penalty; 0 is first-order DARTS.",
    "lambda_": "Factor inside the curvature penalty.",
    "h": "Length of the penalty's probe, in normalised input units.",
}.items():
    flags.DEFINE_float(_name, getattr(_DEFAULTS, _name), _help)
flags.DEFINE_list(
    "primitives",
    list(_DEFAULTS.primitives),
    f"Candidate operations, of {', '.join(ALL_PRIMITIVES)}.",
)
flags.DEFINE_enum_class(
    "penalty", _DEFAULTS.penalty, Penalty, "Penalise the norm or its square."
)
flags.DEFINE_enum_class(
    "precision", _DEFAULTS.precision, Precision, "Arithmetic of the supernet."
)
flags.DEFINE_bool("augment", _DEFAULTS.augment, "Crop, and flip where it makes sense.")
flags.DEFINE_bool(
    "recompute_cells",
    _DEFAULTS.recompute_cells,
    "Run each cell again in the backward pass: less memory, more time.",
)
flags.DEFINE_bool(
    "jit_compile", _DEFAULTS.jit_compile, "Compile with XLA, all but the penalty."
)
flags.DEFINE_bool("sync_batch_norm", _DEFAULTS.sync_batch_norm, SYNC_BATCH_NORM)


def _settings() -> SearchSettings:
    values: dict[str, Any] = {
        field.name: flags.FLAGS[field.name].value
        for field in dataclasses.fields(SearchSettings)
    }
    return SearchSettings(**{**values, "primitives": tuple(values["primitives"])})


def main() -> None:
    """Runs or measures the search that the flags describe."""
    if _DRY_RUN.value:
        dry_runs.search_dry_run(_settings(), _DATA_DIR.value)
    else:
        settings, devices = _settings(), _DEVICES()
        search_run.run_search(settings, _WORKDIR.value, _DATA_DIR.value, devices)


if __name__ == "__main__":
    run(main)
