import numpy as np
import pytest

from advrush_tf.figures.architectures import draw_architectures
from advrush_tf.genotypes.genotype import random_genotype
from advrush_tf.landscape.architectures import SampledGenotype
from advrush_tf.statistics import RankCorrelation
from support.figure_spy import assert_legible, spy_on_figures, texts_of

CORRELATION = RankCorrelation(-0.77, -0.83, -0.69, 40)


@pytest.fixture
def figures(monkeypatch):
    """Every figure that is made."""
    return spy_on_figures(monkeypatch)


def _sample(eigenvalue, robust, seed=None):
    return SampledGenotype(seed, random_genotype(0), 0.9, robust, eigenvalue, 1.0, 1.0)


def _samples(count=40, spread=1.0):
    generator = np.random.default_rng(0)
    logs = generator.normal(1, spread, count)
    robust = np.clip(0.4 - 0.1 * logs + generator.normal(0, 0.05, count), 0, 1)
    pairs = zip(np.exp(logs).tolist(), robust.tolist(), strict=True)
    return [_sample(*pair, seed) for seed, pair in enumerate(pairs)]


def _lines(axes):
    return [line.get_xydata() for line in axes.lines]


def test_each_genotype_is_a_point(figures):
    samples = _samples()
    draw_architectures(samples, None, None, None)
    (points,) = _lines(figures[0].axes[1])
    expected = [(sample.top_eigenvalue, sample.robust) for sample in samples]
    np.testing.assert_array_equal(points, expected)


def test_the_searchs_own_genotype_is_marked_everywhere(figures):
    draw_architectures(_samples(), _sample(0.9, 0.45), None, None)
    above, scatter, beside = figures[0].axes
    assert _lines(scatter)[1].tolist() == [[0.9, 0.45]]
    assert set(_lines(above)[0][:, 0]) == {0.9}
    assert set(_lines(beside)[0][:, 1]) == {0.45}
    names = [text.get_text() for text in scatter.get_legend().get_texts()]
    assert names == ["40 random genotypes", "the search's own"]


def test_the_margins_count_all_genotypes(figures):
    draw_architectures(_samples(), _sample(0.9, 0.45), None, None)
    above, scatter, beside = figures[0].axes
    assert sum(bar.get_height() for bar in above.patches) == 40
    assert sum(bar.get_width() for bar in beside.patches) == 40
    assert above.get_xlim() == scatter.get_xlim()
    assert beside.get_ylim() == scatter.get_ylim()
    # On a logarithmic axis bins of one width have edges of one ratio.
    ratios = [1 + bar.get_width() / bar.get_x() for bar in above.patches]
    np.testing.assert_allclose(ratios, ratios[0])


def test_the_correlation_is_written(figures):
    draw_architectures(_samples(), None, CORRELATION, None)
    assert figures[0].get_suptitle() == (
        "Spearman's rho = -0.77 [-0.83, -0.69], n = 40"
    )


@pytest.mark.parametrize(
    ("lowest", "scale"), [(0.1, "log"), (0, "linear"), (-1, "linear")]
)
def test_the_axis_is_logarithmic_where_it_can_be(figures, lowest, scale):
    for samples, found in (
        ([*_samples(4), _sample(lowest, 0.5)], None),
        (_samples(4), _sample(lowest, 0.5)),
    ):
        draw_architectures(samples, found, None, None)
        assert figures.pop().axes[1].get_xscale() == scale


@pytest.mark.parametrize("spread", [0.01, 0.3, 3.0])
def test_names_and_numbers_do_not_meet(figures, spread):
    draw_architectures(_samples(spread=spread), _sample(2.0, 0.45), CORRELATION, None)
    assert_legible(texts_of(figures[0]), figures[0])


def test_equal_genotypes_can_be_drawn(figures):
    draw_architectures([_sample(2.0, 0.5)] * 3, None, None, None)
    assert sum(bar.get_height() for bar in figures[0].axes[0].patches) == 3


def test_without_genotypes_there_is_no_picture():
    with pytest.raises(ValueError, match="no architectures"):
        draw_architectures([], None, None, None)
