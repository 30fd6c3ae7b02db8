"""Fits a genotype's network: python launch/fit.py --genotype=ADVRUSH."""

import dataclasses
from typing import Any

from absl import flags

from advrush_tf.attacks.pgd import Start
from advrush_tf.fit.objectives import ObjectiveName
from advrush_tf.nn.cell_network import Stem
from advrush_tf.runs import dry_runs
from advrush_tf.runs import fit as fit_run
from advrush_tf.runs.fit_settings import FitSettings, fit_settings
from advrush_tf.runs.flags import (
    SYNC_BATCH_NORM,
    define_data_dir,
    define_devices,
    define_dry_run,
    define_number,
    define_numbers,
    define_workdir,
    run,
)
from advrush_tf.runs.recipes import NetworkName, Schedule, Selection
from advrush_tf.runs.settings import Precision

_RECIPE = " By default the recipe's."

_WORKDIR = define_workdir("runs/fit")
_DATA_DIR = define_data_dir()
_DEVICES = define_devices()
_DRY_RUN = define_dry_run("fit")
flags.DEFINE_enum_class(
    "objective", ObjectiveName.PGD, ObjectiveName, "What is minimised, and its recipe."
)
flags.DEFINE_enum_class(
    "network",
    NetworkName.CELLS,
    NetworkName,
    "A genotype's network, its ImageNet form, or the baseline.",
)
for _name, _help in {
    "dataset": "As for launch/search.py; by default cifar10, with imagenet its own.",
    "genotype": "Published name or path of a genotype.json; by default ADVRUSH.",
}.items():
    flags.DEFINE_string(_name, None, _help)
for _name, _enum, _help in (
    ("stem", Stem, "How the network begins; by default the network's."),
    ("schedule", Schedule, "How the learning rate changes." + _RECIPE),
    ("start", Start, "Where the fit's attack starts." + _RECIPE),
    ("select_by", Selection, "Which held-out accuracy chooses." + _RECIPE),
    ("precision", Precision, "Arithmetic of the network; by default float32."),
):
    flags.DEFINE_enum_class(_name, None, _enum, _help)
for _name, _help in {
    "image_size": "Side of the images in pixels, where they have many sizes; then 224.",
    "init_channels": "Channels of the first cell; by default the network's.",
    "num_cells": "Number of cells; by default 20, of the imagenet network 14.",
    "batch_size": "Images per batch." + _RECIPE,
    "epochs": "Length of the fit." + _RECIPE,
    "cutout": "Side in pixels of the cutout square, 0 for none." + _RECIPE,
    "attack_steps": "Steps of the fit's attack." + _RECIPE,
    "eval_steps": "Steps of the PGD that measures robust accuracy; by default 20.",
    "robust_eval_every": "Epochs from one such measurement to the next." + _RECIPE,
    "test_images": "Images of the test split in the final report; by default 0, all.",
    "seed": "Seed of split, order, augmentation, attacks and initial weights; 0.",
}.items():
    flags.DEFINE_integer(_name, None, _help)
for _name, _help in {
    "drop_path": "Largest probability that a path is dropped." + _RECIPE,
    "auxiliary_weight": "Of the auxiliary head's loss, 0 for no head." + _RECIPE,
    "learning_rate": "First learning rate, or the one cycle's largest." + _RECIPE,
    "learning_rate_min": "Where the cosine ends; by default 0.",
    "decay": "Factor of the piecewise rate at a milestone, by default 0.1, or of the "
    "exponential one in each epoch, 0.97.",
    "momentum": "Momentum of the SGD; by default 0.9.",
    "weight_l2": "L2 coefficient of the weights." + _RECIPE,
    "clip_norm": "Largest global norm of the gradient, 0 for any; by default 5.",
    "epsilon": "Radius of the perturbations, such as 8/255." + _RECIPE,
    "step_size": "Step of the fit's attack." + _RECIPE,
    "beta": "Weight of the divergence in trades and mart." + _RECIPE,
    "label_smoothing": "Share of a label that all classes get." + _RECIPE,
    "awp_gamma": "Relative adversarial weight perturbation, 0 (default) for none.",
    "ema_decay": "Decay of the weights' average, 0 (default) for none.",
    "eval_step_size": "Step of the measuring PGD." + _RECIPE,
    "validation_portion": "Share of the training split held out; by default 0.02.",
}.items():
    define_number(_name, _help)
define_numbers(
    "milestones", "Shares of the epochs where the rate drops; by default 1/2,3/4."
)
for _name, _help in {
    "normalise": "Normalise by the data set's mean and deviation." + _RECIPE,
    "augment": "Crop, and flip where it makes sense; on by default.",
    "recompute_cells": "Run each cell again in the backward pass: less memory, more "
    "time; off by default.",
    "jit_compile": "Compile with XLA; off by default.",
    "sync_batch_norm": SYNC_BATCH_NORM,
}.items():
    flags.DEFINE_bool(_name, None, _help)


def _settings() -> FitSettings:
    values: dict[str, Any] = {
        field.name: flags.FLAGS[field.name].value
        for field in dataclasses.fields(FitSettings)
    }
    return fit_settings(**values)


def main() -> None:
    """Runs or measures the fit that the flags describe."""
    if _DRY_RUN.value:
        dry_runs.fit_dry_run(_settings(), _DATA_DIR.value)
    else:
        settings, devices = _settings(), _DEVICES()
        fit_run.run_fit(settings, _WORKDIR.value, _DATA_DIR.value, devices)


if __name__ == "__main__":
    run(main)
