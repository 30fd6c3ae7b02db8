from itertools import pairwise

import numpy as np
import pytest

from advrush_tf.attacks.geometry import Norm
from advrush_tf.figures.attack import (
    draw_robustness_curves,
    draw_transfer_matrix,
    draw_triples,
)
from support.figure_spy import assert_legible, spy_on_figures, texts_of

NAMES = ("cat", "dog", "ship")


@pytest.fixture
def figures(monkeypatch):
    """Every figure that is made."""
    return spy_on_figures(monkeypatch)


def _images(count, channels=3, height=6, width=6):
    """Images and the same with signs of 1/64, but for the image's last: 1/32."""
    generator = np.random.default_rng(0)
    shape = (count, height, width, channels)
    clean = generator.uniform(0.1, 0.9, shape)
    delta = generator.choice([-1 / 64, 1 / 64], shape)
    delta[:, -1, -1] = 1 / 32
    return clean, clean + delta


def _titles(figure):
    return [axes.get_title() for axes in figure.axes]


def _pixels(axes):
    (image,) = axes.images
    return np.asarray(image.get_array())


def _draw(count=2, channels=3, names=NAMES, **size):
    clean, adversarial = _images(count, channels, **size)
    labels, after = np.arange(count) % len(names), (np.arange(count) + 1) % len(names)
    draw_triples(clean, adversarial, labels, labels, after, names, 1 / 32, None)
    return clean, adversarial


def test_titles_of_triples_name_the_classes_and_the_scale(figures):
    clean, adversarial = _images(2)
    true, before, after = np.array([[0, 1], [0, 2], [1, 1]])
    draw_triples(clean, adversarial, true, before, after, NAMES, 8 / 255, None)
    assert _titles(figures[0]) == [
        "true: cat\npredicted: cat",
        "adversarial\npredicted: dog",
        "difference x 32",
        "true: dog\npredicted: ship",
        "adversarial\npredicted: dog",
        "difference x 32",
    ]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_triples_show_the_images_and_their_difference(figures, channels):
    clean, adversarial = _draw(channels=channels)
    shown = slice(None) if channels == 3 else 0
    for row in range(2):
        image, attacked, difference = figures[0].axes[3 * row : 3 * row + 3]
        np.testing.assert_array_equal(_pixels(image), clean[row][..., shown])
        np.testing.assert_array_equal(_pixels(attacked), adversarial[row][..., shown])
        # Half of 32 / 64 from grey, but white where it is epsilon.
        expected = np.where(adversarial[row] > clean[row], 0.75, 0.25)[..., shown]
        expected[-1, -1] = 1
        np.testing.assert_allclose(_pixels(difference), expected, atol=1e-12)


def test_grey_images_are_not_stretched(figures):
    _draw(channels=1)
    for axes in figures[0].axes:
        assert axes.images[0].get_clim() == (0, 1)
        assert axes.images[0].get_cmap().name == "gray"


def test_differences_of_all_images_have_one_scale(figures):
    clean, _ = _images(4)
    # Of epsilon, in each image: none, a half, all and more by rounding.
    shares = np.array([0, 0.5, 1, 1.01]).reshape(4, 1, 1, 1)
    cats = np.zeros(4, int)
    draw_triples(clean, clean - 0.1 * shares, cats, cats, cats, NAMES, 0.1, None)
    for axes, shade in zip(figures[0].axes[2::3], (0.5, 0.25, 0, 0), strict=True):
        np.testing.assert_allclose(_pixels(axes), shade, atol=1e-12)


@pytest.mark.parametrize(("count", "rows"), [(1, 1), (2, 2), (11, 8)])
def test_a_row_for_each_of_the_first_images(figures, count, rows):
    clean, _ = _draw(count)
    assert len(figures[0].axes) == 3 * rows
    last = figures[0].axes[3 * (rows - 1)]
    np.testing.assert_array_equal(_pixels(last), clean[rows - 1])


def test_no_triples_without_images():
    with pytest.raises(ValueError, match="rows"):
        _draw(0)


@pytest.mark.parametrize(("height", "width"), [(6, 6), (4, 9), (9, 5)])
def test_long_names_stay_apart(figures, height, width):
    names = ["FLAT-COATED RETRIEVER", "Scottish deerhound", *map(str, range(998))]
    _draw(2, names=names, height=height, width=width)
    assert _titles(figures[0])[:2] == [
        "true: FLAT-COATED RET…\npredicted: FLAT-COATED RET…",
        "adversarial\npredicted: Scottish deerho…",
    ]
    assert_legible(texts_of(figures[0]), figures[0])


EPSILONS = [0, 2 / 255, 4 / 255, 8 / 255]
CURVES = {
    "APGD-CE": [(0.9, 0.85, 0.93), (0.7, 0.6, 0.8), (0.5, 0.4, 0.6), (0.1, 0.0, 0.2)],
    "Square": [(0.9, 0.85, 0.93), (0.8, 0.7, 0.9), (0.6, 0.5, 0.7), (0.3, 0.2, 0.4)],
}


def test_curves_and_bands_are_what_was_given(figures):
    draw_robustness_curves(EPSILONS, CURVES, None, Norm.LINF)
    (axes,) = figures[0].axes
    assert [line.get_label() for line in axes.lines] == list(CURVES)
    for line, band, points in zip(
        axes.lines, axes.collections, CURVES.values(), strict=True
    ):
        accuracy, low, high = zip(*points, strict=True)
        assert line.get_xydata().tolist() == [
            list(point) for point in zip(EPSILONS, accuracy, strict=True)
        ]
        corners = {tuple(point) for point in band.get_paths()[0].vertices}
        expected = {*zip(EPSILONS, low, strict=True), *zip(EPSILONS, high, strict=True)}
        assert corners == expected
        assert tuple(band.get_facecolor()[0, :3]) == pytest.approx(
            tuple(int(line.get_color()[i : i + 2], 16) / 255 for i in (1, 3, 5))
        )


def test_axes_of_curves_start_at_the_clean_images(figures):
    draw_robustness_curves(EPSILONS, CURVES, None, Norm.LINF)
    draw_robustness_curves(EPSILONS, CURVES, None, Norm.L2)
    labels = [figure.axes[0].get_xlabel() for figure in figures]
    assert labels == ["epsilon (L∞, in [0, 1])", "epsilon (L₂, of images in [0, 1])"]
    axes = figures[0].axes[0]
    assert (axes.get_xlim(), axes.get_ylim()) == ((0, 8 / 255), (0, 1))
    texts = figures[0].legends[0].get_texts()
    assert [text.get_text() for text in texts] == list(CURVES)


def test_curves_differ_also_without_colours(figures):
    many = {f"attack {number}": CURVES["Square"] for number in range(28)}
    draw_robustness_curves(EPSILONS, many, None, Norm.LINF)
    looks = [
        (line.get_color(), line.get_marker(), line.get_linestyle())
        for line in figures[0].axes[0].lines
    ]
    assert len(set(looks)) == 28
    assert len({look[1:] for look in looks}) == 28
    assert all(a[1] != b[1] and a[2] != b[2] for a, b in pairwise(looks))


def _fractions(figure):
    """Numbers and names of the ticks above, None without any."""
    upper = figure.axes[0].child_axes
    if not upper:
        return None
    names = [text.get_text() for text in upper[0].get_xticklabels()]
    return list(zip(upper[0].get_xticks(), names, strict=True))


@pytest.mark.parametrize(
    ("numerators", "named"),
    [
        ([0, 2, 4, 8], True),
        ([0, 1, 2, 4, 8, 16, 32], True),
        (range(40), True),
        (range(42), False),
        ([0, 1, 64], False),
        ([0, 7.905], False),
        ([0, 0.5, 1], False),
        ([0, 128], True),
    ],
)
def test_multiples_of_a_255th_are_named_if_they_have_room(figures, numerators, named):
    epsilons = [numerator / 255 for numerator in numerators]
    curve = [(0.5, 0.4, 0.6)] * len(epsilons)
    draw_robustness_curves(epsilons, {"PGD": curve}, None, Norm.LINF)
    names = [f"{numerator}/255" for numerator in numerators]
    expected = list(zip(epsilons, names, strict=True)) if named else None
    assert _fractions(figures[0]) == expected
    if named:
        upper = figures[0].axes[0].child_axes[0]
        assert_legible(upper.get_xticklabels(), figures[0])


def _matrix(count):
    return np.linspace(0, 1, count * count).reshape(count, count)


def test_cells_say_rows_crafted_on_and_columns_measured_on(figures):
    matrix = np.array([[0.1, 0.72], [0.6543, 1.0]])
    draw_transfer_matrix(["source", "target"], matrix, None)
    axes = figures[0].axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("measured on", "crafted on")
    for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [text.get_text() for text in ticks] == ["source", "target"]
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert cells == {
        (0, 0): "0.100",
        (1, 0): "0.720",
        (0, 1): "0.654",
        (1, 1): "1.000",
    }
    np.testing.assert_array_equal(_pixels(axes), matrix)
    assert axes.images[0].get_clim() == (0, 1)


def _luminance(rgb):
    """Relative luminance as WCAG 2.1 defines it."""
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_numbers_stand_out_from_their_cells(figures):
    draw_transfer_matrix([str(number) for number in range(12)], _matrix(12), None)
    axes = figures[0].axes[0]
    for text, accuracy in zip(axes.texts, _matrix(12).flat, strict=True):
        cell = _luminance(axes.images[0].to_rgba(accuracy)[:3])
        ink = {"black": 0.0, "white": 1.0}[text.get_color()]
        contrast = (max(cell, ink) + 0.05) / (min(cell, ink) + 0.05)
        assert contrast > 4.5, accuracy  # WCAG's level AA


@pytest.mark.parametrize("count", [1, 3, 12])
def test_numbers_of_a_matrix_are_apart(figures, count):
    names = [f"a model of some name {number}" for number in range(count)]
    draw_transfer_matrix(names, _matrix(count), None)
    assert_legible(texts_of(figures[0]), figures[0])
