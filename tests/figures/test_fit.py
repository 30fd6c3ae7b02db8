import numpy as np
import pytest

from advrush_tf.figures.fit import draw_curves
from support.figure_spy import spy_on_figures

MEASURED = (
    "loss",
    "val_loss",
    "learning_rate",
    "accuracy",
    "robust_accuracy",
    "val_accuracy",
    "val_robust_accuracy",
)


def _history(epochs=4, names=MEASURED, seed=0):
    generator = np.random.default_rng(seed)
    return [
        {"epoch": epoch, **{name: float(generator.random()) for name in names}}
        for epoch in range(1, epochs + 1)
    ]


@pytest.fixture
def figures(monkeypatch):
    """Every figure that is made."""
    return spy_on_figures(monkeypatch)


def _drawn(figure):
    """Points of every line: label -> [(x, y), ...]."""
    return {
        line.get_label(): list(zip(*line.get_data(), strict=True))
        for axes in figure.axes
        for line in axes.lines
    }


LABELS = {
    "clean, held out": "val_accuracy",
    "robust, held out": "val_robust_accuracy",
    "clean, training": "accuracy",
    "robust, training": "robust_accuracy",
    "loss, training": "loss",
    "clean loss, held out": "val_loss",
    "learning rate": "learning_rate",
}


@pytest.mark.parametrize("epochs", [1, 4, 20])
def test_each_line_is_the_history(figures, epochs):
    history = _history(epochs)
    draw_curves(history, 1, None)
    (figure,) = figures
    drawn = _drawn(figure)
    assert drawn.pop("best weights") == [(1, 0), (1, 1)]
    assert set(drawn) == set(LABELS)
    for label, name in LABELS.items():
        assert drawn[label] == [(row["epoch"], row[name]) for row in history], label


def test_a_line_has_the_epochs_in_which_it_was_measured(figures):
    history = _history(4, ("loss", "learning_rate", "val_accuracy"))
    history[1]["val_robust_accuracy"] = 0.25
    history[3]["val_robust_accuracy"] = 0.5
    draw_curves(history, 2, None)
    drawn = _drawn(figures[0])
    assert drawn["robust, held out"] == [(2, 0.25), (4, 0.5)]
    assert set(drawn) == {
        "clean, held out",
        "robust, held out",
        "best weights",
        "loss, training",
        "learning rate",
    }


def test_few_points_can_be_seen(figures):
    for epochs in (1, 100):
        draw_curves(_history(epochs), 1, None)
    markers = [
        {line.get_marker() for axes in figure.axes for line in axes.lines[:1]}
        for figure in figures
    ]
    assert markers == [{"o"}, {"None"}]


def test_axes_of_epochs_and_accuracies(figures):
    draw_curves(_history(), 1, None)
    accuracy, loss, _ = figures[0].axes
    assert accuracy.get_ylim() == (0, 1)
    for axes in (accuracy, loss):
        assert all(float(tick).is_integer() for tick in axes.get_xticks())
    legends = [
        {text.get_text() for text in axes.get_legend().get_texts()}
        for axes in (accuracy, loss)
    ]
    assert set.union(*legends) == {*LABELS, "best weights"}
