"""What all figures have in common; the numbers that each draws are tested by figure."""

import os

import numpy as np
import pytest
from matplotlib.cbook import is_math_text
from matplotlib.image import imread
from matplotlib.text import Text

from advrush_tf.attacks.geometry import Norm
from advrush_tf.figures.architectures import draw_architectures
from advrush_tf.figures.attack import (
    draw_robustness_curves,
    draw_transfer_matrix,
    draw_triples,
)
from advrush_tf.figures.curvature import draw_counts, draw_curvature, draw_spectra
from advrush_tf.figures.fit import draw_curves
from advrush_tf.figures.search import draw_alphas, draw_history
from advrush_tf.figures.study import draw_study
from advrush_tf.figures.surfaces import draw_cuts, draw_surfaces
from advrush_tf.genotypes.genotype import random_genotype
from advrush_tf.landscape.architectures import SampledGenotype
from advrush_tf.landscape.spectrum import mean_spectra
from advrush_tf.search.history import read_history
from advrush_tf.statistics import RankCorrelation
from support.figure_spy import assert_legible, spy_on_figures, texts_of
from support.inspections import inspected
from support.workdirs import make_search

MODELS = {
    "standard/model.keras": inspected(0),
    "runs/cifar_adversarial_of_a_long_name/model.keras": inspected(1),
}
CURVATURES = {name: model.curvature for name, model in MODELS.items()}
SURFACES = {name: model.surface for name, model in MODELS.items()}
CUTS = {name: model.cut for name, model in MODELS.items()}
SAMPLES = [
    SampledGenotype(seed, random_genotype(seed), 0.9, 0.5 - seed / 20, 2.0**seed, 1, 1)
    for seed in range(6)
]
ROWS = [
    {"epoch": epoch, "loss": 2 / epoch, "learning_rate": 0.1, "val_accuracy": 0.5}
    for epoch in (1, 2, 3)
]
SEEDS = [
    {"entry": entry, "objective": "pgd", "clean": 0.8 + seed / 9, "robust": seed / 9}
    for entry in ("advrush", "runs/of_a_long_name/$/genotype.json")
    for seed in range(3)
]
MEAN = {"mean": 0.5, "low": 0.4, "high": 0.6}
MEANS = [
    {"entry": "advrush", "objective": "pgd", "clean": MEAN, "robust": MEAN},
]
POINTS = [(0.9, 0.85, 0.93), (0.5, 0.4, 0.6), (0.1, 0.0, 0.2)]
EPSILONS = [0, 4 / 255, 8 / 255]
SLOPE, BEND = "nats per [0, 1] unit", "nats per squared [0, 1] unit"


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    return read_history(make_search(tmp_path_factory.mktemp("search")))


def _triples(history, path, names=("cat", "dog")):
    labels = np.arange(len(names))
    clean = np.random.default_rng(0).random((len(names), 6, 6, 3))
    return draw_triples(clean, 1 - clean, labels, labels, labels[::-1], names, 1, path)


# Of each figure: how it is drawn, and all that its axes say.
FIGURES = {
    "alphas": (
        lambda history, path: draw_alphas(history, "normal", path),
        {"epoch", "weight (softmax of the alphas)"},
    ),
    "history": (
        draw_history,
        {
            "epoch",
            "cross-entropy, nats",
            "accuracy",
            "penalty, nats per input unit",
            "share of the norm",
            "mean entropy, nats",
            "kept edges that changed",
            "kept edges",
        },
    ),
    "fit": (
        lambda history, path: draw_curves(ROWS, 2, path),
        {"epoch", "accuracy", "loss, nats", "learning rate"},
    ),
    "triples": (_triples, set()),
    "robustness curves": (
        lambda history, path: draw_robustness_curves(
            EPSILONS, {"PGD": POINTS, "Square": POINTS[::-1]}, path, Norm.LINF
        ),
        {"epsilon (L∞, in [0, 1])", "accuracy"},
    ),
    "transfer matrix": (
        lambda history, path: draw_transfer_matrix("abc", np.eye(3), path),
        {"crafted on", "measured on", "accuracy"},
    ),
    "curvature": (
        lambda history, path: draw_curvature(CURVATURES, path),
        {
            f"largest eigenvalue, {BEND}",
            f"trace, {BEND}",
            f"AdvRush penalty, {SLOPE}",
            f"gradient's norm, {SLOPE}",
        },
    ),
    "spectra": (
        lambda history, path: draw_spectra(mean_spectra(CURVATURES), path),
        {
            f"eigenvalue of the input Hessian, {BEND}",
            "density of eigenvalues (integral 1)",
        },
    ),
    "counts": (
        lambda history, path: draw_counts(CURVATURES, 64, path),
        {f"size of the eigenvalue, {BEND}", "eigenvalues beyond it"},
    ),
    "surfaces": (
        lambda history, path: draw_surfaces(SURFACES, path),
        {"gradient's sign, 1/255", "random signs, 1/255", "loss, nats"},
    ),
    "cuts": (
        lambda history, path: draw_cuts(CUTS, "8/255", path),
        {"step, in multiples of epsilon = 8/255", "loss, nats"},
    ),
    "study": (
        lambda history, path: draw_study(SEEDS, MEANS, "Digits.", path),
        {"clean accuracy, pgd", "robust accuracy, pgd"},
    ),
    "architectures": (
        lambda history, path: draw_architectures(
            SAMPLES, SAMPLES[2], RankCorrelation(-0.8, -0.9, -0.7, 6), path
        ),
        {
            "mean largest eigenvalue of the Hessian,\n" + BEND,
            "accuracy under PGD",
            "genotypes",
        },
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_it_draws_is_legible_and_says_its_units(name, history, tmp_path, monkeypatch):
    draw, labels = FIGURES[name]
    figures = spy_on_figures(monkeypatch)
    monkeypatch.chdir(tmp_path)
    picture = draw(history, None)
    assert not os.listdir()
    (figure,) = figures
    _assert_drawn_with_a_margin(picture)
    assert_legible(texts_of(figure), figure)
    axes = [axes for axes in figure.axes if axes.axison]
    said = {axis.get_label_text() for each in axes for axis in (each.xaxis, each.yaxis)}
    said |= {figure.get_supxlabel(), figure.get_supylabel()}
    assert said - {""} == labels
    _assert_the_file_is(picture, lambda path: draw(history, path), tmp_path)


# Half a formula, a hidden label, half a letter; and how they are drawn.
ODD = {"$x^{$/_y": "$x^{$/_y", "_a$b/m": "_a$b/m", "\\$": "\\$", "\udcff\x1b": "??"}


@pytest.mark.parametrize(
    "name",
    [
        "triples",
        "transfer matrix",
        "curvature",
        "spectra",
        "counts",
        "surfaces",
        "cuts",
    ],
)
def test_names_are_drawn_letter_by_letter(name, history, monkeypatch):
    figures = spy_on_figures(monkeypatch)
    {
        "triples": lambda: _triples(history, None, list(ODD)),
        "transfer matrix": lambda: draw_transfer_matrix(list(ODD), np.eye(4), None),
        "curvature": lambda: draw_curvature(_named_oddly(CURVATURES), None),
        "spectra": lambda: draw_spectra(mean_spectra(_named_oddly(CURVATURES)), None),
        "counts": lambda: draw_counts(_named_oddly(CURVATURES), 64, None),
        "surfaces": lambda: draw_surfaces(_named_oddly(SURFACES), None),
        "cuts": lambda: draw_cuts(_named_oddly(CUTS), "8/255", None),
    }[name]()
    texts = [text.get_text() for text in figures[0].findobj(Text)]
    # Powers of 10 on logarithmic axes are formulas.
    assert not any(is_math_text(text) and "mathdefault" not in text for text in texts)
    # What Matplotlib makes of an escaped dollar.
    drawn = " ".join(texts).replace(r"\$", "$")
    assert all(odd in drawn for odd in ODD.values())


def _named_oddly(records):
    return dict(zip(ODD, [*records.values()] * 2, strict=True))


def _assert_drawn_with_a_margin(picture):
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    assert picture.min() < 50
    edges = (picture[0], picture[-1], picture[:, 0], picture[:, -1])
    assert all((edge == 255).all() for edge in edges)


def _assert_the_file_is(picture, draw, folder):
    path = folder / "figure.png"
    path.write_text("earlier")
    np.testing.assert_array_equal(draw(path), picture)
    assert os.listdir(folder) == ["figure.png"]
    written = imread(path)
    np.testing.assert_array_equal(np.rint(255 * written[..., :3]), picture)
    assert (written[..., 3:] == 1).all()
