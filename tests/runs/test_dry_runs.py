import os
import re

import pytest

from advrush_tf.runs import dry_runs
from advrush_tf.runs.profiling import StepCost
from advrush_tf.runs.recipes import fit_settings
from advrush_tf.runs.search_settings import SearchSettings
from advrush_tf.runs.study_settings import StudySettings

SEARCH = {
    "dataset": "digits",
    "epochs": 3,
    "warmup_epochs": 2,
    "init_channels": 2,
    "num_cells": 1,
    "num_nodes": 1,
    "primitives": ("none", "skip_connect", "sep_conv_3x3"),
    "batch_size": 128,
}
FIT = {
    "dataset": "digits",
    "epochs": 3,
    "init_channels": 2,
    "num_cells": 1,
    "batch_size": 128,
    "epsilon": 0.1,
    "attack_steps": 2,
    "eval_steps": 3,
    "test_images": 300,
}
# Of each kind of step: seconds.
SECONDS = {"weights": 100, "alphas": 20, "penalised alphas": 60}


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert not os.listdir(tmp_path)


def _lines(dry_run, settings):
    lines = []
    dry_run(settings, log=lines.append)
    return {line.split("  ")[0]: line for line in lines}


def test_a_search_is_measured_and_nothing_written():
    lines = _lines(dry_runs.search_dry_run, SearchSettings(**SEARCH))
    names = {"parameters", "multiply-adds", "kernels", "input", "memory", "total"}
    assert names <= set(lines)


def test_a_fit_is_measured_and_nothing_written():
    lines = _lines(dry_runs.fit_dry_run, fit_settings(**FIT))
    assert re.fullmatch("kernels +oneDNN (on|off)", lines["kernels"])
    names = {"parameters", "multiply-adds", "step", "input", "evaluation", "memory"}
    assert names | {"total"} <= set(lines)


@pytest.fixture
def measured(monkeypatch):
    """Makes measurements give known numbers."""
    monkeypatch.setattr(
        dry_runs,
        "measure_search_step",
        lambda model, kind, batch: StepCost(700, 300, SECONDS[kind], 1, 10**9),
    )
    monkeypatch.setattr(dry_runs, "measure_evaluation", lambda model, batch: 1000)


@pytest.mark.parametrize(
    ("changes", "penalised"),
    [({}, True), ({"gamma": 0.0}, False), ({"gamma": 0.0, "warmup_epochs": 3}, False)],
)
def test_the_penalty_is_measured_if_there_is_one(measured, changes, penalised):
    lines = _lines(dry_runs.search_dry_run, SearchSettings(**{**SEARCH, **changes}))
    assert any(line.startswith("with penalty") for line in lines.values()) is penalised


def test_a_searchs_total_by_hand(measured):
    lines = _lines(dry_runs.search_dry_run, SearchSettings(**SEARCH))
    # 1,438 training images make 719 // 128 = 5 steps an epoch and 719 to evaluate on.
    seconds = 5 * (2 * (100 + 20) + 100 + 60) + 3 * 719 / 256 * 1000
    seconds += 3 * (700 + 300)
    assert (
        lines["total"].split()
        == f"total {seconds / 3600:.2f} h for 3 epochs of 5".split()
    )


def test_a_trial_costs_less(measured):
    settings = SearchSettings(**SEARCH, train_images=600)
    lines = _lines(dry_runs.search_dry_run, settings)
    assert lines["total"].endswith("for 3 epochs of 2")


def test_a_fits_total_by_hand(monkeypatch):
    cost = StepCost(700, 300, 100, 1, 10**9)
    monkeypatch.setattr(dry_runs, "measure_fit_step", lambda model, batch: cost)
    monkeypatch.setattr(dry_runs, "measure_evaluation", lambda model, batch: 1000)
    settings = fit_settings(
        **FIT, validation_portion=0.5, robust_eval_every=2, milestones=(0.5,)
    )
    lines = _lines(dry_runs.fit_dry_run, settings)
    # The accuracies of epochs 2 and 3 on 719 images, then of the best and of the last
    # weights on 300 test images.
    batches = (2 * 719 + 2 * 300) / 256
    seconds = 3 * 5 * 100 + batches * 1000 + 700 + 300
    assert (
        lines["total"].split()
        == f"total {seconds / 3600:.2f} h for 3 epochs of 5".split()
    )


def test_the_cost_of_a_study_by_hand(monkeypatch):
    monkeypatch.setattr(dry_runs, "check_study", lambda *given: None)
    monkeypatch.setattr(dry_runs, "search_dry_run", lambda *given: 3600)
    monkeypatch.setattr(dry_runs, "fit_dry_run", lambda *given: 360)
    cost = StepCost(700, 300, 0.5, 1, 10**9)
    monkeypatch.setattr(dry_runs, "measure", lambda *given: cost)
    lines = []
    settings = StudySettings(
        entries=("advrush", "ADVRUSH"),
        seeds=2,
        dataset="digits",
        select=3,
        fit={"epochs": 9, "init_channels": 2, "num_cells": 1},
        attacks=("fgsm", "autoattack"),
        attack={"test_images": 64, "batch_size": 32, "epsilons": ("0.2",)},
    )
    dry_runs.study_dry_run(settings, log=lines.append)
    assert lines[0] == "\n6 x search of advrush"
    # Two objectives, for two entries with two seeds each; six fits of a third's length.
    assert "\nall of these    7.00 h" in lines
    # APGD looks 101 times, and FAB 100 times, towards each of nine targets, APGD once
    # more without one, and Square 5,000 times, at 2 batches of each of 8 networks,
    # at two radii.
    hours = 8 * (101 + 9 * 101 + 9 * 100 + 5000) * 2 * 2 * 0.5 / 3600
    assert f"attacks, {hours / 10:.2f} h for each tenth of the images" in lines[-1]
