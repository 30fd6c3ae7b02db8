"""Measures how robust a model is: python launch/attack.py --model=model.keras."""

import dataclasses
from typing import Any

from absl import flags

from advrush_tf.attacks.catalogue import ALLOWED
from advrush_tf.attacks.geometry import Norm
from advrush_tf.runs import attack as attack_run
from advrush_tf.runs.attack_settings import AttackSettings
from advrush_tf.runs.flags import define_data_dir, define_devices, define_workdir, run

_DEFAULTS = AttackSettings(model="-")

_WORKDIR = define_workdir("runs/attack")
_DATA_DIR = define_data_dir()
_DEVICES = define_devices()
flags.DEFINE_string("model", "", "The .keras file of the classifier that is measured.")
for _name, _help in {
    "dataset": "As for launch/search.py; what the model was fitted on.",
    "epsilon": "Radius of the perturbations in [0, 1] units, such as 8/255.",
}.items():
    flags.DEFINE_string(_name, getattr(_DEFAULTS, _name), _help)
for _name, _help in {
    "source_model": "Other .keras files: what is crafted on each is measured on all.",
    "attacks": f"Attacks, separated by commas, of {ALLOWED}.",
    "epsilons": "More radii, such as 0,2/255,4/255, for a robustness curve.",
}.items():
    flags.DEFINE_list(_name, list(getattr(_DEFAULTS, _name)), _help)
for _name, _help in {
    "test_images": "Images of the test split, from its first on; 0 for all.",
    "image_size": "Side of the images in pixels, where they have many sizes; then 224.",
    "batch_size": "Images at a time, on each device.",
    "seed": "Seed of all random numbers.",
}.items():
    flags.DEFINE_integer(_name, getattr(_DEFAULTS, _name), _help)
flags.DEFINE_enum_class("norm", _DEFAULTS.norm, Norm, "What epsilon is measured in.")
flags.DEFINE_bool(
    "checks", _DEFAULTS.checks, "Probe the model for signs of a wrong evaluation."
)
flags.DEFINE_bool(
    "save_images", _DEFAULTS.save_images, "Keep and draw the adversarial images."
)


def _settings() -> AttackSettings:
    names = {field.name for field in dataclasses.fields(AttackSettings)} - {"sha256"}
    values: dict[str, Any] = {name: flags.FLAGS[name].value for name in names}
    lists = ("source_model", "attacks", "epsilons")
    return AttackSettings(**{**values, **{name: tuple(values[name]) for name in lists}})


def main() -> None:
    """Runs the evaluation that the flags describe."""
    settings, devices = _settings(), _DEVICES()
    attack_run.run_attack(settings, _WORKDIR.value, _DATA_DIR.value, devices)


if __name__ == "__main__":
    run(main)
