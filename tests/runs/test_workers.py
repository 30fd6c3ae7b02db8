"""Searches and fits on two worker processes of this machine."""

import signal
import time

import numpy as np
import pytest

from support.processes import (
    assert_is_one_error_of,
    assert_same_last_checkpoint,
    launch,
    workers,
)

SEARCH = {
    **{"dataset": "digits", "epochs": 5, "warmup_epochs": 3, "batch_size": 256},
    **{"init_channels": 1, "num_cells": 1, "num_nodes": 1, "stem_multiplier": 1},
    **{"primitives": "none,skip_connect,sep_conv_3x3", "precision": "float64"},
    **{"gamma": 1.0, "clip_norm": 0.1},
}
FIT = {
    **{"dataset": "digits", "genotype": "ADVRUSH", "epochs": 2, "batch_size": 256},
    **{"init_channels": 2, "num_cells": 1, "precision": "float64", "drop_path": 0.2},
    **{"epsilon": 0.1, "attack_steps": 2, "eval_steps": 2, "test_images": 50},
    **{"validation_portion": 0.1, "auxiliary_weight": 0},
}


def _run(name, settings, workdirs):
    with workers(name, settings, workdirs) as both:
        results = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], results
    return results


def _assert_close_checkpoints(first, second):
    ends = [sorted((w / "checkpoints").iterdir())[-1] for w in (first, second)]
    assert ends[0].name == ends[1].name
    with np.load(ends[0]) as one, np.load(ends[1]) as other:
        for name in set(one.files) - {"notes"}:
            np.testing.assert_allclose(
                other[name], one[name], rtol=1e-8, atol=1e-12, err_msg=name
            )


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A search's folder, made by two workers, and what they printed."""
    folder = tmp_path_factory.mktemp("workers")
    workdirs = [folder / "chief", folder / "other"]
    return workdirs, _run("search", SEARCH, workdirs)


def test_a_search_on_two_workers_is_that_of_one_process(searched, tmp_path):
    """Ten steps, the last four with the penalty, clipped, in float64."""
    (chief, _), _ = searched
    flags = [f"--{name}={value}" for name, value in SEARCH.items()]
    alone = launch("search", *flags, f"--workdir={tmp_path}")
    assert alone.returncode == 0, alone.stderr
    _assert_close_checkpoints(tmp_path, chief)


def test_the_chief_alone_writes_and_tells(searched):
    (chief, other), ((told, _), (silent, errors)) = searched
    assert (chief / "genotype.json").exists()
    assert "Genotype" in told
    assert not other.exists()
    assert silent == ""
    assert "error:" not in errors


def test_a_killed_worker_ends_the_search_which_resumes_exactly(searched, tmp_path):
    (whole, _), _ = searched
    workdirs = [tmp_path / "chief", tmp_path / "other"]
    with workers("search", SEARCH, workdirs) as (chief, other):
        while not (workdirs[0] / "checkpoints/epoch_0001.npz").exists():
            assert other.poll() is None
            time.sleep(0.05)
        other.send_signal(signal.SIGKILL)
        _, errors = chief.communicate(timeout=60)
    assert_is_one_error_of(chief, errors, 1, "another worker has stopped")
    assert not (workdirs[0] / "genotype.json").exists()
    (told, _), _ = _run("search", SEARCH, workdirs)
    assert "Resuming" in told
    assert_same_last_checkpoint(whole, workdirs[0])


def test_a_search_with_statistics_of_its_own_runs_on_each_worker(tmp_path):
    own = {"epochs": 1, "warmup_epochs": 1, "sync_batch_norm": False}
    workdirs = [tmp_path / "chief", tmp_path / "other"]
    (told, _), _ = _run("search", SEARCH | own, workdirs)
    assert "Genotype" in told


def test_workers_with_other_settings_refuse(tmp_path):
    workdirs = [tmp_path / "chief", tmp_path / "other"]
    with workers("search", SEARCH, workdirs, seed=7) as both:
        for process in both:
            _, errors = process.communicate(timeout=100)
            words = "Worker 1 (here) has other settings than the chief (there): seed is"
            assert_is_one_error_of(process, errors, 2, words)
    assert not any(folder.exists() for folder in workdirs)


def test_a_fit_on_two_workers_is_that_of_one_process(tmp_path):
    workdirs = [tmp_path / "chief", tmp_path / "other"]
    (told, _), (silent, _) = _run("fit", FIT, workdirs)
    flags = [f"--{name}={value}" for name, value in FIT.items()]
    alone = launch("fit", *flags, f"--workdir={tmp_path / 'alone'}")
    assert alone.returncode == 0, alone.stderr
    _assert_close_checkpoints(tmp_path / "alone", workdirs[0])
    assert "model.keras" in told
    assert silent == ""
    assert not workdirs[1].exists()
