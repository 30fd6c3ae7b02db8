"""Measures how curved the loss is: python launch/landscape.py --model=model.keras."""

import dataclasses
from pathlib import Path
from typing import Any

from absl import flags

from advrush_tf.errors import UserError
from advrush_tf.runs import landscape
from advrush_tf.runs.flags import define_data_dir, define_workdir, run
from advrush_tf.runs.landscape_settings import LandscapeSettings

_DEFAULTS = LandscapeSettings(model=("-",))

_WORKDIR = define_workdir("runs/landscape")
_DATA_DIR = define_data_dir()
flags.DEFINE_multi_string(
    "model",
    [],
    "A .keras file, or the workdir of a search, whose supernet is taken; may be "
    "repeated.",
)
_RUNS = flags.DEFINE_multi_string(
    "run",
    [],
    "A workdir of a search, a fit, an evaluation or an inspection that the report "
    "tells of; of a search the history is drawn. May be repeated.",
)
_REPORT = flags.DEFINE_string(
    "report", None, "An HTML file to write: all that --run and --model gave, on a page."
)
for _name, _help in {
    "dataset": "As for launch/search.py; what the models were fitted on.",
    "epsilon": "Radius of the attack that cuts follow, in [0, 1] units, such as 8/255; "
    "surfaces reach twice as far.",
}.items():
    flags.DEFINE_string(_name, getattr(_DEFAULTS, _name), _help)
for _name, _help in {
    "test_images": "Images of the test split that are looked at, from its first on.",
    "image_size": "Side of the images in pixels, where they have many sizes; then 224.",
    "batch_size": "Images at a time, of the models.",
    "top": "Number of eigenvalues of each image's Hessian.",
    "lanczos_steps": "Hessian-vector products of each image and probe.",
    "probes": "Random starts of each image, for the trace and the spectral density.",
    "surface_points": "Points of a surface along each direction, an odd number.",
    "cut_points": "Points of a cut along the attack's direction.",
    "sample_genotypes": "Random genotypes that are measured with the weights of a "
    "supernet: one of the models is then a search's workdir. 0 for none.",
    "path_epochs": "Epochs in which the supernet's weights first learn to serve single "
    "architectures, a random one a step; 0 for none.",
    "sample_images": "Test images for the accuracies of each sampled genotype.",
    "sample_curvature_images": "Test images for the curvature of each of them.",
    "seed": "Seed of all random numbers.",
}.items():
    flags.DEFINE_integer(_name, getattr(_DEFAULTS, _name), _help)
flags.DEFINE_float("h", _DEFAULTS.h, "Length of the penalty's probe, in [0, 1] units.")


def _settings() -> LandscapeSettings:
    names = {field.name for field in dataclasses.fields(LandscapeSettings)} - {"sha256"}
    values: dict[str, Any] = {name: flags.FLAGS[name].value for name in names}
    return LandscapeSettings(**{**values, "model": tuple(values["model"])})


def main() -> None:
    """Inspects the models, and writes the report, that the flags describe."""
    models, runs = flags.FLAGS["model"].value, [Path(run) for run in _RUNS.value]
    if not models and not runs:
        raise UserError(
            "Nothing to inspect: give --model=PATH (a .keras file or a search's "
            "workdir) or --run=WORKDIR, each as often as wanted."
        )
    report = Path(_REPORT.value) if _REPORT.value else None
    settings = _settings() if models else None
    landscape.run_landscape(
        settings, Path(_WORKDIR.value), runs, report, _DATA_DIR.value
    )


if __name__ == "__main__":
    run(main)
