import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from advrush_tf.errors import UserError
from advrush_tf.genotypes.genotype import random_genotype
from advrush_tf.landscape.architectures import SampledGenotype
from advrush_tf.runs.inspection_report import draw_search, write_results
from advrush_tf.runs.landscape_settings import LandscapeSettings
from support.inspections import inspected
from support.workdirs import make_search

MODELS = {"a/model.keras": inspected(seed=1), "b/model.keras": inspected(seed=2)}
SETTINGS = LandscapeSettings(model=("a/model.keras", "b/model.keras"))
# The more curved, the less robust; the gradients' norms are all the same.
SAMPLES = [
    SampledGenotype(
        seed, random_genotype(seed), 0.9, 0.5 - seed / 100, 1.0 + seed, seed, 2.0
    )
    for seed in range(8)
]


def _write(workdir, samples):
    lines = []
    results = write_results(SETTINGS, MODELS, 64, samples, None, workdir, lines.append)
    return results, "\n".join(lines)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("inspection")
    return workdir, *_write(workdir, SAMPLES)


def test_results_and_table_are_files(written):
    workdir, results, text = written
    assert json.loads((workdir / "inspection.json").read_text()) == results
    assert (workdir / "inspection.md").read_text().strip() in text
    for name in ("curvature", "spectra", "eigenvalues", "surfaces", "cuts"):
        assert str(workdir / f"{name}.png") in text


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
    assert {"curvature", "surfaces", "architectures", "inspection"} <= tags
    assert len(events.Tensors("sampled/robust accuracy")) == 8


def test_the_history_of_a_search_is_drawn(tmp_path):
    search, lines = tmp_path / "run", []
    search.mkdir()
    make_search(search)
    draw_search(search, "mine", tmp_path / "new", lines.append)
    drawn = {path.name for path in (tmp_path / "new").glob("*.png")}
    stem = "search_mine"
    ends = ("", "_alphas_normal", "_alphas_reduce")
    assert drawn == {f"{stem}{end}.png" for end in ends}
    assert all(name in lines[0] for name in drawn)


def test_a_damaged_history_is_one_line(tmp_path):
    search = tmp_path / "run"
    search.mkdir()
    make_search(search)
    (search / "genotypes" / "epoch_0002.json").write_text("{")
    with pytest.raises(UserError, match=r"epoch_0002\.json is damaged"):
        draw_search(search, "run", tmp_path / "new", print)
