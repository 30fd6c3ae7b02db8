import matplotlib.image
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from advrush_tf.files import read_json
from advrush_tf.runs import evaluation_report
from advrush_tf.runs.evaluation_report import markdown, print_summary, write_report
from advrush_tf.statistics import wilson
from support.evaluations import CLEAN, X, Y, evaluation


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    workdir, lines = tmp_path_factory.mktemp("report"), []
    results = write_report(evaluation(), workdir, lines.append)
    return workdir, results, lines


def test_results_and_table_are_files(written):
    workdir, results, lines = written
    assert read_json(workdir / "results.json") == results
    table = (workdir / "results.md").read_text().strip()
    assert table in "\n".join(lines)


def test_a_figure_that_fails_loses_no_number(tmp_path, monkeypatch):
    def fail(*args):
        raise RuntimeError("no font")

    monkeypatch.setattr(evaluation_report.figures, "draw_robustness_curves", fail)
    with pytest.raises(RuntimeError, match="no font"):
        write_report(evaluation(), tmp_path, print)
    results = read_json(tmp_path / "results.json")
    assert results["clean"]["accuracy"] == np.mean(CLEAN)
    # Which marks the end: the next run draws the figures.
    assert not (tmp_path / "results.md").exists()


def test_images_are_kept_by_model_attack_and_epsilon(written):
    with np.load(written[0] / "adversarial.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["clean"], X)
        np.testing.assert_array_equal(file["labels"], Y)
        lifted = X[:2] + np.float32(0.1)
        np.testing.assert_allclose(file["0_autoattack_8/255"][:2], lifted)
        np.testing.assert_array_equal(file["0_autoattack_8/255"][2:], X[2:])
        assert len(file.files) == 2 + 6


def test_figures_are_pictures(written):
    for name in ("adversarial", "robustness", "transfer_fgsm", "transfer_autoattack"):
        pixels = matplotlib.image.imread(written[0] / f"{name}.png")
        assert pixels.std() > 0.05


def test_tensorboard_shows_the_same(written):
    workdir, results, _ = written
    events = EventAccumulator(str(workdir / "tensorboard"))
    events.Reload()
    scalars = {
        tag: {
            event.step: float(tf.make_ndarray(event.tensor_proto))
            for event in events.Tensors(tag)
        }
        for tag in events.Tags()["tensors"]
        if tag.startswith("accuracy")
    }
    clean = np.mean(CLEAN)
    assert scalars["accuracy/clean"] == {0: clean}
    assert scalars["accuracy/robust"] == {0: results["robust"]["accuracy"]}
    curve = scalars["accuracy over 10000 epsilon/fgsm"]
    # 2/255 and 8/255.
    assert curve == {0: clean, 78: clean, 314: 0.5}
    members = scalars["accuracy after each member/autoattack, epsilon 8/255"]
    assert members == {0: clean, 1: 0.5, 2: 0.25}
    other = "accuracy over 10000 epsilon/fgsm, crafted on runs/two/model.keras"
    assert scalars[other] == {0: clean, 314: 0.5}
    assert "adversarial" in events.Tags()["tensors"]


def test_what_is_told_says_where_everything_is(written):
    workdir, results, _ = written
    lines = []
    print_summary(results, workdir, lines.append)
    text = "\n".join(lines)
    assert "Robust accuracy 0.00%" in text
    for name in ("results.json", "results.md", "robustness.png", "adversarial.npz"):
        assert str(workdir / name) in text


def test_the_table_shows_it_all(written):
    text = markdown(written[1])
    low, high = wilson(3, 4)
    assert f"| clean |  | 75.00% | {low:.2%} to {high:.2%} |  |  |" in text
    rows = [line.split(" | ") for line in text.splitlines()]
    assert ["| autoattack: after a", "8/255", "50.00%"] in [row[:3] for row in rows]
    assert ["| all", "8/255", "0.00%"] in [row[:3] for row in rows]
    assert "| runs/two/model.keras | 50.00% | 25.00% |" in text
    assert "**Warning** (zero_gradients): No gradients." in text
    assert "0.0313725" in text
