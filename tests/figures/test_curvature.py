from types import SimpleNamespace

import numpy as np
import pytest

from advrush_tf.figures.curvature import (
    draw_counts,
    draw_curvature,
    draw_spectra,
)
from advrush_tf.landscape.meter import Curvature
from support.figure_spy import assert_legible, spy_on_figures, texts_of, ticks_of

NAME = "digits_standard/model.keras"
LONG = "runs/of_a_year/cifar_adversarial/checkpoints/model.keras"
BEND, SLOPE = "nats per squared [0, 1] unit", "nats per [0, 1] unit"


@pytest.fixture
def figures(monkeypatch):
    """Every figure that is made."""
    return spy_on_figures(monkeypatch)


def _curvature(scale=1.0, negative=False, seed=0, images=40, spread=2.0):
    generator = np.random.default_rng(seed)
    sizes = scale * np.exp(spread * generator.uniform(-1, 1, (4, images)))
    signs = np.where(np.arange(images) % 5, 1, -1) if negative else 1
    eigenvalues = np.stack([signs * sizes[0], sizes[0] / 2], 1)
    return Curvature(
        gradient_norms=sizes[1],
        penalties=sizes[2],
        eigenvalues=eigenvalues,
        eigenvalue_bounds=np.zeros_like(eigenvalues),
        traces=signs * sizes[3],
        trace_errors=np.zeros(images),
        ritz_values=eigenvalues,
        ritz_weights=np.full_like(eigenvalues, 0.5),
    )


def _density(scale, count=301):
    points = scale * np.linspace(-0.2, 1.0, count)
    width = scale / 50
    peaks = [(0.99, 0.0), (0.01, 0.9 * scale)]
    bells = [w * np.exp(-(((points - c) / width) ** 2) / 2) for w, c in peaks]
    return points, np.sum(bells, 0) / width / np.sqrt(2 * np.pi)


def _scales(figure):
    return [axes.get_xscale() for axes in figure.axes]


def _values(curvature):
    """In the order of the panels."""
    largest = curvature.eigenvalues[:, 0]
    others = (curvature.traces, curvature.penalties, curvature.gradient_norms)
    return largest, *others


def test_panels_say_what_they_show_in_which_units(figures):
    draw_curvature({NAME: _curvature(), LONG: _curvature(10)}, None)
    assert [axes.get_xlabel() for axes in figures[0].axes] == [
        f"largest eigenvalue, {BEND}",
        f"trace, {BEND}",
        f"AdvRush penalty, {SLOPE}",
        f"gradient's norm, {SLOPE}",
    ]
    names = [text.get_text() for text in figures[0].axes[0].get_yticklabels()]
    assert names == [
        NAME,
        "runs/of_a_year/\ncifar_adversarial/\ncheckpoints/model.keras",
    ]
    assert "diamonds: means" in figures[0].get_suptitle()


def test_each_image_is_a_point_in_its_models_row(figures):
    curvatures = [_curvature(seed=seed) for seed in range(3)]
    draw_curvature(dict(zip("abc", curvatures, strict=True)), None)
    for panel, axes in enumerate(figures[0].axes):
        clouds = [each for each in axes.collections if len(each.get_offsets()) == 40]
        for row, (cloud, curvature) in enumerate(zip(clouds, curvatures, strict=True)):
            values, heights = np.transpose(cloud.get_offsets())
            np.testing.assert_array_equal(values, _values(curvature)[panel])
            assert (np.abs(heights - row) <= 0.25).all()
        # The first model is on top.
        assert axes.get_ylim() == (2.5, -0.5)


def test_boxes_are_quartiles_and_diamonds_means(figures):
    curvature = _curvature(images=101)
    draw_curvature({NAME: curvature}, None)
    for axes, values in zip(figures[0].axes, _values(curvature), strict=True):
        ordered = np.sort(values)
        box, low, high, median, mean = (line.get_xdata() for line in axes.lines)
        assert {*box} == {ordered[25], ordered[75]}
        np.testing.assert_allclose(low, ordered[[25, 5]])
        np.testing.assert_allclose(high, ordered[[75, 95]])
        assert {*median} == {ordered[50]}
        assert mean == pytest.approx([values.mean()])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"spread": 0.5}, ["linear"] * 4),
        ({"spread": 0.5, "negative": True}, ["linear"] * 4),
        ({"spread": 6}, ["log"] * 4),
        ({"spread": 6, "negative": True}, ["symlog", "symlog", "log", "log"]),
    ],
)
def test_axes_are_as_wide_as_the_values_ask_for(figures, settings, expected):
    curvature = _curvature(**settings)
    draw_curvature({NAME: curvature}, None)
    assert _scales(figures[0]) == expected
    for axes, values in zip(figures[0].axes, _values(curvature), strict=True):
        low, high = axes.get_xlim()
        assert low < values.min() and values.max() < high


def test_no_curvature_at_all_can_be_drawn(figures):
    draw_curvature({NAME: _curvature(0.0)}, None)
    assert _scales(figures[0]) == ["linear"] * 4


@pytest.mark.parametrize("images", [1, 2])
def test_few_images_can_be_drawn(figures, images):
    curvature = _curvature(images=images)
    draw_curvature({NAME: curvature}, None)
    for axes, values in zip(figures[0].axes, _values(curvature), strict=True):
        assert axes.lines[-1].get_xdata() == pytest.approx([values.mean()])


@pytest.mark.parametrize("count", [1, 2, 8])
@pytest.mark.parametrize("negative", [False, True])
def test_texts_of_curvature_are_apart(figures, count, negative):
    curvatures = {
        f"{LONG}{i}": _curvature(10.0**i, negative, spread=1 + i) for i in range(count)
    }
    draw_curvature(curvatures, None)
    for axes in figures[0].axes:
        assert len([tick for tick in ticks_of(axes.xaxis) if tick.get_text()]) >= 2
    assert_legible(texts_of(figures[0]), figures[0])


def test_spectra_are_what_was_given(figures):
    densities = {NAME: _density(10.0), LONG: _density(2.0)}
    draw_spectra(densities, None)
    (axes,) = figures[0].axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "log")
    texts = figures[0].legends[0].get_texts()
    assert [text.get_text() for text in texts] == list(densities)
    for line, given in zip(axes.lines, densities.values(), strict=True):
        np.testing.assert_array_equal(line.get_data(), given)
    styles = {(line.get_color(), line.get_linestyle()) for line in axes.lines}
    assert len(styles) == 2


@pytest.mark.parametrize("scales", [[1], [1, 1000], [1e-4, 1e6, 1], range(1, 9)])
def test_texts_of_spectra_are_apart(figures, scales):
    draw_spectra({f"{LONG} {scale}": _density(scale) for scale in scales}, None)
    assert_legible(texts_of(figures[0]), figures[0])


def test_counts_of_eigenvalues_are_those_of_the_quadrature(figures):
    # One image of 10 values: two eigenvalues of size 4, one of 1, seven of 0.
    curvature = SimpleNamespace(
        ritz_values=np.array([[-4.0, 0.0, 1.0]]),
        ritz_weights=np.array([[0.2, 0.7, 0.1]]),
    )
    draw_counts({"a": curvature}, 10, None)
    (axes,) = figures[0].axes
    sizes, counts = axes.lines[0].get_data()
    np.testing.assert_allclose(counts[sizes < 0.999], 3)
    np.testing.assert_allclose(counts[(sizes > 1.001) & (sizes < 3.999)], 2)
    assert counts[-1] == 0
    assert axes.get_xscale() == axes.get_yscale() == "log"
