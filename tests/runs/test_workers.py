"""Searches and fits on two worker processes of this machine."""

import time

import numpy as np
import pytest

from advrush_tf.genotypes.genotype import Genotype
from support.processes import (
    assert_is_one_error_of,
    assert_same_last_checkpoint,
    launch,
    workers,
)

SEARCH = {
    **{"dataset": "digits", "epochs": 3, "warmup_epochs": 1, "batch_size": 256},
    **{"init_channels": 1, "num_cells": 1, "num_nodes": 1, "stem_multiplier": 1},
    **{"primitives": "none,skip_connect,sep_conv_3x3", "precision": "float64"},
    **{"gamma": 1.0, "clip_norm": 0.1},
}
FIT = {
    **{"dataset": "digits", "epochs": 2, "batch_size": 256},
    **{"init_channels": 2, "num_cells": 1, "precision": "float64", "drop_path": 0.2},
    **{"epsilon": 0.1, "attack_steps": 2, "eval_steps": 2, "test_images": 50},
    **{"validation_portion": 0.1, "auxiliary_weight": 0},
}


# One edge has drop path, the other has none.
EDGES = (("sep_conv_3x3", 0), ("skip_connect", 1))
GENOTYPE = Genotype(EDGES, (2,), EDGES, (2,))


def _run(name, settings, workdir):
    with workers(name, settings, workdir) as both:
        results = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], results
    return results


def _assert_close_checkpoints(first, second):
    ends = [sorted((w / "checkpoints").iterdir())[-1] for w in (first, second)]
    assert ends[0].name == ends[1].name
    with np.load(ends[0]) as one, np.load(ends[1]) as other:
        for name in set(one.files) - {"notes", "settings"}:
            np.testing.assert_allclose(
                other[name], one[name], rtol=1e-8, atol=1e-12, err_msg=name
            )


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A search's folder, made by two workers, and what they printed."""
    workdir = tmp_path_factory.mktemp("workers") / "search"
    return workdir, _run("search", SEARCH, workdir)


def test_a_search_on_two_workers_is_that_of_one_process(searched, tmp_path):
    """Six steps, the last four with the penalty, clipped, in float64."""
    flags = [f"--{name}={value}" for name, value in SEARCH.items()]
    alone = launch("search", *flags, f"--workdir={tmp_path}")
    assert alone.returncode == 0, alone.stderr
    _assert_close_checkpoints(tmp_path, searched[0])


def test_the_chief_alone_writes_and_prints(searched):
    workdir, ((printed, _), (silent, errors)) = searched
    assert (workdir / "genotype.json").exists()
    assert len(list((workdir / "tensorboard").iterdir())) == 1
    # How the workers found each other is gone.
    assert [path.name for path in workdir.glob(".*")] == [".lock"]
    assert "Genotype" in printed
    assert silent == ""
    assert not [line for line in errors.splitlines() if line.startswith("error:")]


def test_a_killed_worker_ends_the_search_which_resumes_exactly(searched, tmp_path):
    with workers("search", SEARCH, tmp_path) as (chief, other):
        while not (tmp_path / "checkpoints/epoch_0001.npz").exists():
            assert other.poll() is None
            time.sleep(0.05)
        other.kill()
        _, errors = chief.communicate(timeout=60)
    assert_is_one_error_of(chief, errors, 1, "another worker has stopped")
    assert not (tmp_path / "genotype.json").exists()
    (printed, _), _ = _run("search", SEARCH, tmp_path)
    assert "Resuming" in printed
    assert_same_last_checkpoint(searched[0], tmp_path)


def test_workers_with_other_settings_refuse(tmp_path):
    refusals = (
        "Worker 1 has refused the run; its output says why",
        "Worker 1 (here) has other settings than the chief (there): seed is",
    )
    with workers("search", SEARCH, tmp_path, seed=7) as both:
        for process, words in zip(both, refusals, strict=True):
            _, errors = process.communicate(timeout=100)
            assert_is_one_error_of(process, errors, 2, words)
    assert not list(tmp_path.iterdir())


def test_a_fit_on_two_workers_is_that_of_one_process(tmp_path):
    genotype = tmp_path / "genotype.json"
    GENOTYPE.save(genotype)
    settings = FIT | {"genotype": genotype}
    (printed, _), (silent, _) = _run("fit", settings, tmp_path / "workers")
    flags = [f"--{name}={value}" for name, value in settings.items()]
    alone = launch("fit", *flags, f"--workdir={tmp_path / 'alone'}")
    assert alone.returncode == 0, alone.stderr
    _assert_close_checkpoints(tmp_path / "alone", tmp_path / "workers")
    assert "model.keras" in printed
    assert silent == ""
