import numpy as np
import pytest

from advrush_tf.figures.search import draw_alphas, draw_history
from advrush_tf.search.history import read_history
from support.figure_spy import spy_on_figures
from support.workdirs import METRICS, make_search

# In the order of draw_history's panels.
LOSS, ACCURACY, PENALTY, SHARE, ENTROPY, CHANGES, NORMAL, REDUCE = range(8)


@pytest.fixture
def figures(monkeypatch):
    """Every figure that is made."""
    return spy_on_figures(monkeypatch)


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    return read_history(make_search(tmp_path_factory.mktemp("search")))


def _drawn(draw, *arguments):
    with pytest.MonkeyPatch.context() as patch:
        figures = spy_on_figures(patch)
        draw(*arguments, None)
    return figures[0]


@pytest.fixture(scope="module")
def panels(history):
    """Of the history."""
    return _drawn(draw_history, history).axes


@pytest.fixture(scope="module")
def alphas(history):
    """The figure of the normal cell's."""
    return _drawn(draw_alphas, history, "normal")


def _history(tmp_path, **changes):
    return read_history(make_search(tmp_path, **changes))


def _lines(axes):
    """What each named line shows."""
    return {line.get_label(): line.get_xydata() for line in axes.lines}


def _heights(axes):
    return {
        bars.get_label(): [bar.get_height() for bar in bars] for bars in axes.containers
    }


def _texts(axes):
    return [text.get_text() for text in axes.texts]


def test_alphas_have_a_panel_for_each_edge(history, alphas):
    shown = [axes for axes in alphas.axes if axes.axison]
    titles = [axes.get_title() for axes in shown]
    assert titles == ["2 ← 0", "2 ← 1", "3 ← 0", "3 ← 1", "3 ← 2"]
    bold = [axes.title.get_weight() == "bold" for axes in shown]
    assert bold == [True, True, True, False, True]
    for edge, axes in enumerate(shown):
        lines = _lines(axes)
        for column, name in enumerate(history.primitives):
            np.testing.assert_array_equal(lines[name][:, 0], [1, 2, 3])
            weights = history.weights["normal"][:, edge, column]
            np.testing.assert_array_equal(lines[name][:, 1], weights)


def test_the_kept_operation_is_thick(alphas):
    thick = [
        [line.get_label() for line in axes.lines if line.get_linewidth() > 2]
        for axes in alphas.axes
        if axes.axison
    ]
    sep = ["sep_conv_3x3"]
    assert thick == [["skip_connect"], ["max_pool_3x3"], sep, [], sep]


def test_all_operations_are_told_apart_and_explained(alphas):
    (legend,) = alphas.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["none", "max_pool_3x3", "skip_connect", "sep_conv_3x3"]
    styles = {(line.get_color(), line.get_linestyle()) for line in legend.get_lines()}
    assert len(styles) == 4


def test_nearly_equal_weights_do_not_fill_the_axis_with_noise(tmp_path, figures):
    history = _history(tmp_path)
    flat = np.full((3, 5, 4), 0.25)
    history.weights["reduce"] = flat + 1e-6 * np.sin(np.arange(flat.size)).reshape(
        flat.shape
    )
    draw_alphas(history, "reduce", None)
    low, high = figures[0].axes[0].get_ylim()
    assert low < 0.246 and high > 0.254


def test_losses_and_accuracies_are_those_of_the_search(panels):
    for panel, name in ((LOSS, "loss"), (ACCURACY, "accuracy")):
        lines = _lines(panels[panel])
        for label, prefix in (
            ("weight half, training", ""),
            ("alpha half, training", "alpha_"),
            ("alpha half, inference", "val_"),
        ):
            values = METRICS[prefix + name]
            np.testing.assert_array_equal(
                lines[label], np.transpose([(1, 2, 3), values])
            )


def test_the_penalty_is_shown_where_it_was_measured(panels):
    for panel, name, value in (
        (PENALTY, "penalty", 4.5),
        (SHARE, "penalty share", 0.25),
    ):
        values = _lines(panels[panel])[name][:, 1]
        np.testing.assert_array_equal(values, [np.nan, np.nan, value])


def test_a_line_marks_the_end_of_the_warm_up(panels):
    for axes in panels:
        mark = _lines(axes)["the penalty sets in"]
        np.testing.assert_array_equal(mark[:, 0], [2.5, 2.5])


def test_without_a_penalty_there_is_none_to_show(tmp_path, figures):
    draw_history(_history(tmp_path, gamma=0.0), None)
    for panel in (PENALTY, SHARE):
        assert _texts(figures[0].axes[panel]) == ["not recorded"]
    assert "the penalty sets in" not in _lines(figures[0].axes[LOSS])


def test_the_squared_penalty_has_another_unit(panels, tmp_path, figures):
    draw_history(_history(tmp_path, penalty="squared_norm"), None)
    assert panels[PENALTY].get_ylabel() == "penalty, nats per input unit"
    label = figures[0].axes[PENALTY].get_ylabel()
    assert label == "penalty, (nats per input unit)²"


def test_entropy_is_compared_with_that_of_equal_weights(history, panels):
    lines = _lines(panels[ENTROPY])
    np.testing.assert_array_equal(lines["normal cell"][:, 1], history.entropy["normal"])
    np.testing.assert_allclose(lines["equal weights: 1.386"][:, 1], np.log(4))


def test_changes_are_bars_of_edges_and_operations(panels):
    assert _heights(panels[CHANGES]) == {
        "normal cell: other edge": [0, 1, 0],
        "normal cell: other operation": [0, 1, 0],
        "reduction cell: other edge": [0, 0, 0],
        "reduction cell: other operation": [0, 0, 0],
    }


def test_operations_are_stacked(panels):
    heights = _heights(panels[NORMAL])
    assert heights["skip_connect"] == [3, 1, 1]
    np.testing.assert_array_equal(np.sum(list(heights.values()), 0), [4, 4, 4])
    for bars in panels[REDUCE].containers:
        assert bars.get_label() != "none"


def test_old_searches_say_what_is_missing(tmp_path, figures):
    draw_history(_history(tmp_path, metrics=None), None)
    missing = [_texts(axes) == ["not recorded"] for axes in figures[0].axes]
    assert missing == [True] * 4 + [False] * 4


def test_one_epoch_is_enough(tmp_path, figures):
    history = _history(tmp_path, epochs=1)
    draw_history(history, None)
    draw_alphas(history, "normal", None)
    for figure in figures:
        line = figure.axes[0].lines[0]
        assert line.get_marker() not in ("", "None", None)
        assert figure.axes[0].get_xlim() == (0.5, 1.5)
