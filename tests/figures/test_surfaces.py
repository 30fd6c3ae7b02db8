import numpy as np
import pytest

from advrush_tf.figures.surfaces import draw_cuts, draw_surfaces
from advrush_tf.landscape.surfaces import Cut, Surface
from support.figure_spy import assert_legible, spy_on_figures, texts_of

AXIS = np.linspace(-8, 8, 9) / 255
LONG = "runs/cifar_adversarial_of_a_long_name/model.keras"


@pytest.fixture
def figures(monkeypatch):
    """Every figure that is made."""
    return spy_on_figures(monkeypatch)


@pytest.fixture(scope="module")
def two_models():
    """The figure of two models' surfaces."""
    with pytest.MonkeyPatch.context() as patch:
        figures = spy_on_figures(patch)
        draw_surfaces(SURFACES, None)
    return figures[0]


def _surface(height, bottom=1.0):
    first, second = np.meshgrid(np.linspace(-1, 1, 9), np.linspace(-1, 1, 9))
    # The first axis is that of the rows.
    return Surface(AXIS, AXIS, bottom + height * (second + 1) ** 2 + 0.1 * first**2)


def _cut(scale, images=20):
    steps = np.arange(-10, 21) / 10
    slopes = scale * np.random.default_rng(0).uniform(0.5, 1.5, (images, 1))
    return Cut(steps, slopes * np.exp(2 * steps))


SURFACES = {"standard": _surface(7.0), LONG: _surface(0.2)}
CUTS = {"standard": _cut(1.0), LONG: _cut(0.01)}


def _panels(figure):
    return [axes for axes in figure.axes if axes.has_data() and axes.get_title()]


def _bar(figure):
    (bar,) = [axes for axes in figure.axes if axes.get_label() == "<colorbar>"]
    return bar


def test_each_model_has_a_plane_under_its_name(two_models):
    panels = _panels(two_models)
    titles = [axes.get_title().replace("\n", "") for axes in panels]
    assert titles == list(SURFACES)
    assert {axes.get_xlabel() for axes in panels} == {"gradient's sign, 1/255"}


def test_colours_are_common(two_models):
    limits = [axes.collections[0].get_clim() for axes in _panels(two_models)]
    limits.append(_bar(two_models).get_ylim())
    np.testing.assert_allclose(limits, [(1, 29.1)] * 3)


def test_contours_show_the_losses_where_they_belong(two_models):
    for axes, surface in zip(_panels(two_models), SURFACES.values(), strict=True):
        mesh = axes.collections[0]
        places = np.reshape(mesh.get_coordinates(), (9, 9, 2))
        losses = np.reshape(mesh.get_array(), (9, 9))
        np.testing.assert_allclose(places[2, 7], (-4, 6))
        np.testing.assert_array_equal(losses, surface.losses)


def test_contour_lines_are_each_models_own_and_labelled(two_models):
    for axes, surface in zip(_panels(two_models), SURFACES.values(), strict=True):
        levels = np.array([float(text.get_text()) for text in axes.texts])
        assert len(levels) >= 3
        assert (levels > surface.losses.min()).all()
        assert (levels < surface.losses.max()).all()
        inner = [np.abs(text.get_position()).max() < 7.5 for text in axes.texts]
        assert all(inner)
        assert_legible(axes.texts, two_models)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_texts_of_surfaces_are_apart(figures, count):
    draw_surfaces({f"{LONG} {i}": _surface(1.0 + i) for i in range(count)}, None)
    assert len(_panels(figures[0])) == count
    assert_legible(texts_of(figures[0]), figures[0])


def test_a_flat_loss_can_be_drawn(figures):
    flat = Surface(AXIS, AXIS, np.full((9, 9), 2.0))
    draw_surfaces({"flat": flat}, None)
    low, high = _bar(figures[0]).get_ylim()
    assert low < 2 < high


def test_cuts_are_means_and_middle_halves(figures):
    draw_cuts(CUTS, "8/255", None)
    for axes in figures[0].axes:
        assert [line.get_label() for line in axes.lines] == list(CUTS)
        for line, band, cut in zip(
            axes.lines, axes.collections, CUTS.values(), strict=True
        ):
            np.testing.assert_array_equal(line.get_xdata(), cut.steps)
            np.testing.assert_allclose(line.get_ydata(), np.mean(cut.losses, 0))
            corners = band.get_paths()[0].vertices
            heights = np.sort(corners[np.isclose(corners[:, 0], 0.5)][:, 1])
            ordered = np.sort(cut.losses[:, 15])
            # Of 20 images, the quartiles lie between the 5th and 6th, 15th and 16th.
            assert ordered[4] <= heights[0] <= ordered[5]
            assert ordered[14] <= heights[-1] <= ordered[15]


def test_axes_of_cuts(figures):
    draw_cuts(CUTS, "8/255", None)
    linear, logarithmic = figures[0].axes
    assert (linear.get_yscale(), logarithmic.get_yscale()) == ("linear", "log")
    assert linear.get_ylim()[0] == 0
    lowest = np.mean(CUTS[LONG].losses, 0).min()
    assert logarithmic.get_ylim()[0] == pytest.approx(lowest / 2)
    for axes in (linear, logarithmic):
        assert axes.get_xlim() == (-1, 2)
        marks = axes.child_axes[0]
        assert marks.get_xticks().tolist() == [0, 1]
        names = [text.get_text() for text in marks.get_xticklabels()]
        assert names == ["clean", "adversarial"]


@pytest.mark.parametrize("lowest", [0.0, 1e-12])
def test_losses_of_nothing_do_not_stretch_the_axis(figures, lowest):
    steps = np.array([-1, 0, 1, 2])
    draw_cuts({"sure": Cut(steps, np.array([[lowest, lowest, 1, 10]]))}, "0.1", None)
    low, high = figures[0].axes[1].get_ylim()
    assert 1e-7 < low < high


@pytest.mark.parametrize("count", [1, 8])
def test_texts_of_cuts_are_apart(figures, count):
    draw_cuts({f"{LONG} {i}": _cut(10.0**-i) for i in range(count)}, "8/255", None)
    assert len(figures[0].legends[0].get_texts()) == count
    assert_legible(texts_of(figures[0]), figures[0])
