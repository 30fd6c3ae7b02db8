"""Small workdirs of every kind of run, written by hand."""

import json
import re
from pathlib import Path

import numpy as np
from matplotlib.image import imsave

from advrush_tf.genotypes.genotype import Genotype
from advrush_tf.runs.evaluation import as_json
from advrush_tf.runs.landscape_settings import LandscapeSettings
from advrush_tf.runs.recipes import fit_settings
from advrush_tf.runs.search_settings import SearchSettings
from support.evaluations import evaluation

PRIMITIVES = ("none", "max_pool_3x3", "skip_connect", "sep_conv_3x3")
COMMAND = "python launch/search.py '--dataset=<a> & b'"
TREES = Path(__file__).resolve().parents[2] / "testdata" / "trees.json"
COLOURS = {"curves.png": (230, 30, 160), "robustness.png": (20, 200, 90)}


def assert_tree(workdir, run):
    """Checks the files that a finished run has left, without TensorBoard's numbers."""
    files = (path.relative_to(workdir) for path in workdir.rglob("*"))
    events = re.compile(r"(?<=tfevents)\..*")
    names = {events.sub("", str(file)) for file in files if (workdir / file).is_file()}
    assert sorted(names) == json.loads(TREES.read_text())[run]


def alphas_of(*kept):
    """Alphas of one cell that keep these (node, state, operation), the first most."""
    nodes = max(node for node, _, _ in kept) - 1
    edges = [(n, s) for n in range(2, nodes + 2) for s in range(n)]
    alphas = np.zeros((len(edges), len(PRIMITIVES)))
    for strength, (node, state, operation) in zip(
        np.linspace(2, 1, len(kept)), kept, strict=True
    ):
        row, column = edges.index((node, state)), PRIMITIVES.index(operation)
        alphas[row, column] = strength
    return alphas


# Of two nodes: what each of three epochs keeps of the normal cell.
FIRST = [(2, 0, "skip_connect"), (2, 1, "max_pool_3x3")]
EPOCHS = [
    [*FIRST, (3, 0, "skip_connect"), (3, 1, "skip_connect")],
    # One edge for another, and one other operation.
    [*FIRST, (3, 2, "sep_conv_3x3"), (3, 0, "sep_conv_3x3")],
    [*FIRST, (3, 0, "sep_conv_3x3"), (3, 2, "sep_conv_3x3")],
]
METRICS = {
    "loss": (2.0, 1.0, 0.5),
    "alpha_loss": (2.2, 1.1, 0.6),
    "val_loss": (2.1, 1.2, 0.7),
    "accuracy": (0.3, 0.6, 0.8),
    "alpha_accuracy": (0.2, 0.5, 0.7),
    "val_accuracy": (0.25, 0.55, 0.75),
    "penalty": (0.0, 0.0, 4.5),
    "penalty_share": (0.0, 0.0, 0.25),
    "entropy": (1.3, 1.2, 1.1),
}


def make_search(workdir, epochs=3, metrics=METRICS, **changes):
    """A search of two nodes whose penalty is on in the third epoch."""
    given = {"dataset": "digits", "epochs": 3, "warmup_epochs": 2, "num_nodes": 2}
    settings = SearchSettings(primitives=PRIMITIVES, **given | changes)
    (workdir / "genotypes").mkdir(parents=True)
    (workdir / "command.txt").write_text(f"{COMMAND}\n")
    for epoch, kept in enumerate(EPOCHS[:epochs], 1):
        normal, reduce = alphas_of(*kept), alphas_of(*EPOCHS[0])
        provenance = {
            "library": "advrush_tf 1.2.3",
            "epoch": epoch,
            "settings": settings.to_dict(),
            "alphas_normal": normal.tolist(),
            "alphas_reduce": reduce.tolist(),
        }
        if metrics:
            row = {name: values[epoch - 1] for name, values in metrics.items()}
            provenance["metrics"] = row
        genotype = Genotype.from_alphas(normal, reduce, PRIMITIVES, provenance)
        genotype.save(workdir / "genotypes" / f"epoch_{epoch:04d}.json")
    return workdir


def make_fit(workdir, **changes):
    """A fit of three epochs, the second of which is the best."""
    settings = fit_settings(**{"dataset": "digits", "epochs": 3} | changes).to_dict()
    history = [
        {
            "epoch": epoch,
            "loss": 2.0 / epoch,
            "val_accuracy": clean,
            "learning_rate": 0.1,
            "seconds": 1.0,
        }
        for epoch, clean in enumerate((0.3, 0.9, 0.6), 1)
    ]
    report = {
        "library": "advrush_tf 1.2.3",
        "settings": settings,
        "parameters": 12345,
        "history": history,
        "best": history[1],
        "test": {
            "images": 200,
            "attack": {"epsilon": 0.1, "steps": 20},
            "best": {"accuracy": 0.9, "robust_accuracy": np.float32(0.505).item()},
            "last": {"accuracy": 0.6, "robust_accuracy": 0.0},
        },
        "warnings": [{"code": "chance", "sentence": "It guesses."}],
        "seconds": 3.0,
    }
    _write(workdir / "fit.json", report)
    paint(workdir / "curves.png")
    (workdir / "model.keras").write_bytes(b"the best")
    (workdir / "model_last.keras").write_bytes(b"the last")
    return workdir


def make_evaluation(workdir, sha256="ab", **changes):
    """The evaluation of `evaluations`."""
    results = as_json(evaluation(**changes))
    results["settings"]["sha256"][0] = sha256
    _write(workdir / "results.json", results)
    paint(workdir / "robustness.png")
    return workdir


def make_inspection(workdir, sha256="ab"):
    """An inspection of one model, with random genotypes."""
    settings = LandscapeSettings(model=("runs/one/model.keras",), sha256=(sha256,))
    number = {"mean": 3.25, "low": 2.5, "high": 4.0, "median": 3.0}
    names = ("top_eigenvalue", "trace", "penalty", "gradient_norm")
    results = {
        "library": "advrush_tf 1.2.3",
        "versions": {"keras": "3.0"},
        "settings": settings.to_dict(),
        "split": "train[80%:]",
        "warnings": [{"model": None, "code": "chance", "sentence": "It guesses."}],
        "models": {
            "one/model.keras": {
                "images": 64,
                "accuracy": 0.875,
                "curvature": dict.fromkeys(names, number),
                "trace_error": 0.02,
            }
        },
        "architectures": {
            "count": 7,
            "rank_correlations": {
                "top_eigenvalue": {"rho": -0.5, "low": -0.75, "high": -0.25}
            },
        },
    }
    _write(workdir / "inspection.json", results)
    for name in ("curvature.png", "my_own.png", "search_digits.png"):
        paint(workdir / name)
    return workdir


def paint(path):
    """A picture of 300 by 75 pixels in one colour."""
    pixels = np.empty((75, 300, 3), np.uint8)
    pixels[:] = COLOURS.get(path.name, (128, 128, 128))
    imsave(path, pixels)


def _write(path, report):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report))
