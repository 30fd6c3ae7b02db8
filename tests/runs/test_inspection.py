import numpy as np
import pytest
from scipy import stats
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from advrush_tf.files import read_json
from advrush_tf.genotypes.genotype import random_genotype
from advrush_tf.landscape.architectures import SampledGenotype
from advrush_tf.runs import inspection
from advrush_tf.runs.inspection import (
    ModelCurvature,
    as_json,
    markdown,
    summary,
    write_results,
)
from advrush_tf.runs.landscape_settings import LandscapeSettings
from advrush_tf.statistics import RankCorrelation
from support.inspections import inspected

MODELS = {"a/model.keras": inspected(seed=1), "b/model.keras": inspected(seed=2)}
SETTINGS = LandscapeSettings(model=("a/model.keras", "b/model.keras"))
NOTED = {
    "split": "train[80%:]",
    "warnings": [
        {"model": None, "code": "missing_classes", "sentence": "No cats."},
        {"model": "a/model.keras", "code": "chance", "sentence": "It guesses."},
    ],
}
# The more curved, the less robust; the gradients' norms are all the same.
SAMPLES = [
    SampledGenotype(
        seed, random_genotype(seed), 0.9, 0.5 - seed / 100, 1.0 + seed, seed, 2.0
    )
    for seed in range(8)
]


def test_what_is_saved_is_read_again(tmp_path):
    saved = inspected(seed=1)
    saved.save(tmp_path / "model_0.npz", {"model": "a"})
    loaded = ModelCurvature.load(tmp_path / "model_0.npz", {"model": "a"})
    with pytest.raises(ValueError, match="of another model or run"):
        ModelCurvature.load(tmp_path / "model_0.npz", {"model": "b"})
    np.testing.assert_array_equal(loaded.right, saved.right)
    for part in ("curvature", "surface", "cut"):
        first, second = vars(getattr(saved, part)), vars(getattr(loaded, part))
        assert first.keys() == second.keys()
        for name in first:
            np.testing.assert_array_equal(first[name], second[name], err_msg=name)


@pytest.mark.parametrize("kept", [0, 100])
def test_a_damaged_file_is_said_to_be(tmp_path, kept):
    path = tmp_path / "model_0.npz"
    inspected().save(path, {})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"model_0\.npz is damaged"):
        ModelCurvature.load(path, {})
    with pytest.raises(IsADirectoryError):
        ModelCurvature.load(tmp_path, {})


def test_the_interval_of_a_mean_is_near_the_normal_one():
    values = np.random.default_rng(0).normal(5, 2, 400)
    found = summary(values, seed=3)
    expected = stats.norm.interval(0.95, values.mean(), stats.sem(values))
    np.testing.assert_allclose((found["low"], found["high"]), expected, rtol=0.01)
    assert found["mean"] == values.mean()
    assert found["median"] == np.median(values)
    assert found == summary(values, seed=3)


def test_equal_values_have_no_width():
    found = summary(np.full(4, 2.5), seed=0)
    assert set(found.values()) == {2.5}


def test_results_name_each_model_and_its_numbers():
    models = {"a/m.keras": inspected(seed=1), "b/m.keras": inspected(seed=2)}
    settings = LandscapeSettings(model=("x/a/m.keras", "x/b/m.keras"))
    correlations = {"penalty": RankCorrelation(-0.5, -0.75, -0.25, 40)}
    noted = {"split": "test", "warnings": []}
    results = as_json(settings, models, [], None, correlations, noted)
    assert "Warning" not in markdown(results)
    assert "architectures" not in results
    found = results["models"]["b/m.keras"]
    assert found["path"] == "x/b/m.keras"
    assert found["accuracy"] == models["b/m.keras"].right.mean()
    trace = models["b/m.keras"].curvature.traces.mean()
    assert found["curvature"]["trace"]["mean"] == trace
    # Losses of the cut's steps -1, 0, 1, 2.
    losses = models["b/m.keras"].cut.losses.mean(0)
    assert found["loss_on_its_attack"] == {"clean": losses[1], "attacked": losses[2]}
    table = markdown(results)
    assert "| b/m.keras |" in table
    assert f"{trace:.3g} (" in table
    # Six images, each with an error of 0.5.
    assert found["trace_error"] == pytest.approx(0.5 / np.sqrt(6))
    assert "| 0.2 |" in table


def _write(workdir, samples):
    lines = []
    results = write_results(
        SETTINGS, MODELS, 64, samples, None, NOTED, workdir, lines.append
    )
    return results, "\n".join(lines)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("inspection")
    return workdir, *_write(workdir, SAMPLES)


def test_results_and_table_are_files(written):
    workdir, results, text = written
    assert read_json(workdir / "inspection.json") == results
    assert results["split"] == "train[80%:]"
    table = (workdir / "inspection.md").read_text()
    assert table.strip() in text
    assert "**Warning** (missing_classes): No cats.\n" in table
    assert "**Warning** (chance, a/model.keras): It guesses.\n" in table
    for name in ("curvature", "spectra", "eigenvalues", "surfaces", "cuts"):
        assert str(workdir / f"{name}.png") in text


def test_a_figure_that_fails_loses_no_number(tmp_path, monkeypatch):
    def fail(*args):
        raise RuntimeError("no font")

    monkeypatch.setattr(inspection.curvature_figures, "draw_curvature", fail)
    with pytest.raises(RuntimeError, match="no font"):
        _write(tmp_path, [])
    assert set(read_json(tmp_path / "inspection.json")["models"])
    # Which marks the end: the next run draws the figures.
    assert not (tmp_path / "inspection.md").exists()


def test_correlations_are_those_of_the_ranks(written):
    architectures = written[1]["architectures"]
    assert architectures["count"] == 8
    correlations = architectures["rank_correlations"]
    assert correlations["top_eigenvalue"]["rho"] == pytest.approx(-1)
    assert correlations["penalty"]["rho"] == pytest.approx(-1)
    # A constant has none.
    assert "gradient_norm" not in correlations


def test_equal_robust_accuracies_are_said_to_have_no_correlation(tmp_path):
    same = [
        SampledGenotype(seed, random_genotype(seed), 0.1, 0.0, 1.0 + seed, seed, 2.0)
        for seed in range(4)
    ]
    results, text = _write(tmp_path, same)
    assert results["architectures"]["rank_correlations"] == {}
    assert "none is defined" in text


def test_tensorboard_has_numbers_distributions_and_figures(written):
    events = EventAccumulator(str(written[0] / "tensorboard"), {"tensors": 0})
    tags = set(events.Reload().Tags()["tensors"])
    for model in MODELS:
        for name in ("top_eigenvalue", "trace", "penalty", "gradient_norm"):
            assert {f"mean {name}/{model}", f"{name}/{model}"} <= tags
        assert f"error of the mean trace/{model}" in tags
    assert {"curvature", "surfaces", "architectures", "inspection"} <= tags
    assert len(events.Tensors("sampled/robust accuracy")) == 8
