import numpy as np
import pytest
from scipy import stats

from advrush_tf.runs.inspection import (
    ModelCurvature,
    as_json,
    markdown,
    summary,
)
from advrush_tf.runs.landscape_settings import LandscapeSettings
from advrush_tf.statistics import RankCorrelation
from support.inspections import inspected


def test_what_is_saved_is_read_again(tmp_path):
    saved = inspected(seed=1)
    saved.save(tmp_path / "model_0.npz")
    loaded = ModelCurvature.load(tmp_path / "model_0.npz")
    np.testing.assert_array_equal(loaded.right, saved.right)
    for part in ("curvature", "surface", "cut"):
        first, second = vars(getattr(saved, part)), vars(getattr(loaded, part))
        assert first.keys() == second.keys()
        for name in first:
            np.testing.assert_array_equal(first[name], second[name], err_msg=name)


@pytest.mark.parametrize("kept", [0, 100])
def test_a_damaged_file_is_said_to_be(tmp_path, kept):
    path = tmp_path / "model_0.npz"
    inspected().save(path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"model_0\.npz is damaged"):
        ModelCurvature.load(path)


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
    results = as_json(settings, models, [], None, correlations)
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
