import json
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from advrush_tf.data.dataset import load_dataset
from advrush_tf.errors import NonFiniteLossError, UserError
from advrush_tf.files import read_arrays
from advrush_tf.genotypes.genotype import Genotype, get_genotype
from advrush_tf.runs import search as search_run
from advrush_tf.runs.run import Run
from advrush_tf.runs.search_settings import SearchSettings
from advrush_tf.search.history import read_history
from support.tiny_search import tiny_compiled
from support.workdirs import assert_tree

SMALL = {
    "dataset": "digits",
    "epochs": 3,
    "warmup_epochs": 2,
    "init_channels": 2,
    "num_cells": 1,
    "num_nodes": 1,
    "batch_size": 128,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished")
    lines = []
    genotype = search_run.run_search(SearchSettings(**SMALL), workdir, log=lines.append)
    return workdir, genotype, lines


def test_a_search_leaves_its_results(finished):
    workdir, genotype, lines = finished
    assert Genotype.load(workdir / "genotype.json") == genotype
    provenance = Genotype.load(workdir / "genotype.json").provenance
    assert provenance["epoch"] == 3
    assert provenance["settings"]["init_channels"] == 2
    assert (
        Genotype.from_alphas(provenance["alphas_normal"], provenance["alphas_reduce"])
        == genotype
    )
    names = {f"epoch_000{epoch}.json" for epoch in (1, 2, 3)}
    assert set(os.listdir(workdir / "genotypes")) == names
    for cell in ("normal", "reduce"):
        assert (workdir / f"genotype_{cell}.svg").stat().st_size > 1000
    epochs = [line for line in lines if line.startswith("epoch ")]
    assert len(epochs) == 3
    assert "penalty 0 " in epochs[1]
    assert "penalty 0 " not in epochs[2]
    assert any("genotype.json" in line for line in lines)


def test_the_first_line_says_what_is_run_and_tracing_is_announced(finished):
    workdir, _, lines = finished
    pattern = f"search on digits, [\\d,]+ parameters, .*[CG]PU.*, in {workdir}"
    assert re.fullmatch(pattern, lines[0])
    notices = [n for n, line in enumerate(lines) if line.startswith("tracing")]
    epochs = [n for n, line in enumerate(lines) if line.startswith("epoch")]
    # The penalty's graph is traced in the third epoch.
    assert notices[0] < epochs[0] < epochs[1] < notices[1] < epochs[2]


def test_the_fit_to_run_next_suits_the_search(finished):
    workdir, _, lines = finished
    *start, launcher = shlex.split(lines[-1])[:2]
    flags = dict(word.split("=") for word in shlex.split(lines[-1])[2:])
    assert Path(*start).samefile(sys.executable) and launcher == "launch/fit.py"
    assert flags["--genotype"] == str(workdir / "genotype.json")
    assert flags["--dataset"] == "digits"
    # The same channels, cells and epochs; but of the official search the official fit.
    sizes = [flags[f"--{name}"] for name in ("init_channels", "num_cells", "epochs")]
    assert sizes == ["2", "1", "3"]
    assert not any(search_run._suitable_fit(SearchSettings()).values())
    # What the images ask for is handed on.
    few = search_run._suitable_fit(SearchSettings(batch_size=16, augment=False))
    assert {n: v for n, v in few.items() if v is not None} == {
        "batch_size": 16,
        "augment": False,
    }


def test_an_epochs_line_fits_and_shows_that_the_entropy_moves():
    logs = dict.fromkeys((*LOGGED, "val_accuracy"), 1 / 3)
    settings = SearchSettings(epochs=100)
    for entropy, shown in ((np.log(8), "-0%"), (2.0793, "-0.0068%")):
        line = search_run.epoch_line(99, settings, {**logs, "entropy": entropy}, 12345)
        assert f" entropy {shown}  12345 s" in line
        assert len(line) <= 100


def test_a_trial_takes_a_part_of_the_images(finished):
    settings = SearchSettings(**SMALL, train_images=600)
    dataset = load_dataset("digits")
    assert search_run.make_pairs(settings, dataset)[1] == 300 // 128
    batches = search_run.validation_batches(settings, dataset)
    assert sum(len(y) for _, y in batches) == 300


def test_a_finished_run_leaves_these_files(finished):
    assert_tree(finished[0], "search")


def test_the_genotypes_of_epochs_hold_their_metrics(finished):
    workdir, genotype, lines = finished
    history = read_history(workdir)
    assert history.genotypes[-1] == genotype
    assert "metrics" not in Genotype.load(workdir / "genotype.json").provenance
    assert {*LOGGED} <= history.metrics.keys()
    epochs = [line for line in lines if line.startswith("epoch ")]
    for number, line in enumerate(epochs):
        assert f"loss {history.metrics['loss'][number]:.3g} " in line
        assert f"val {history.metrics['val_accuracy'][number]:.3f} " in line
    assert (history.metrics["penalty"] > 0).tolist() == [False, False, True]
    # One is an epoch's mean, the other of its end.
    ends = (history.entropy["normal"] + history.entropy["reduce"]) / 2
    np.testing.assert_allclose(history.metrics["entropy"], ends, rtol=1e-4)


def test_damaged_genotypes_of_epochs_are_written_again(finished, tmp_path):
    folder = shutil.copytree(finished[0] / "genotypes", tmp_path / "genotypes")
    whole = {path: path.read_bytes() for path in folder.iterdir()}
    newest = read_arrays(finished[0] / "checkpoints" / "epoch_0003.npz")
    notes = json.loads(newest["notes"].item())
    one, another, _ = sorted(whole)
    one.unlink()
    another.write_bytes(whole[another].replace(b"epoch", b"epoc", 1))
    run = Run(SearchSettings(**SMALL), tmp_path, log=lambda line: None)
    search_run.EpochRecorder(run, notes).on_train_begin()
    assert {path: path.read_bytes() for path in folder.iterdir()} == whole


def test_a_metric_that_is_not_finite_is_left_out(tmp_path):
    run = Run(SearchSettings(**SMALL), tmp_path, log=lambda line: None)
    recorder = search_run.EpochRecorder(run, {})
    recorder.set_model(tiny_compiled())
    recorder.on_train_begin()
    recorder.on_epoch_begin(0)
    logs = dict.fromkeys(LOGGED, 0.5)
    recorder.on_epoch_end(0, {**logs, "val_loss": np.inf})
    genotype = Genotype.load(tmp_path / "genotypes" / "epoch_0001.json")
    assert genotype.provenance["metrics"] == {
        name: 0.5 for name in LOGGED if name != "val_loss"
    }


LOGGED = (
    *("loss", "accuracy", "alpha_loss", "alpha_accuracy", "penalty", "penalty_share"),
    *("entropy", "val_loss", "val_accuracy"),
)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 1000}, "batch"),
        ({"train_portion": 1e-4}, "--train_portion is 0.0001.* 1437 training images"),
        ({"train_portion": 0.9999}, "--train_portion is 0.9999"),
    ],
)
def test_unfit_data_and_settings_are_refused(tmp_path, changes, words):
    settings = SearchSettings(**SMALL | changes)
    with pytest.raises(UserError, match=words):
        search_run.run_search(settings, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_workdir_that_tensorboard_cannot_write_is_one_clear_line(tmp_path):
    (tmp_path / "tensorboard").write_text("a file")
    with pytest.raises(UserError, match=r"failed: .*make it writable"):
        search_run.run_search(SearchSettings(**SMALL), tmp_path)


def test_poisoned_weights_are_not_saved(tmp_path, monkeypatch):
    record = search_run.EpochRecorder.on_epoch_end

    def poison(self, epoch, logs=None):
        if epoch == 1:
            weight = self.model.network_weights[0]
            weight.assign(np.full(weight.shape, np.nan))
        record(self, epoch, logs)

    monkeypatch.setattr(search_run.EpochRecorder, "on_epoch_end", poison)
    settings = SearchSettings(**SMALL, primitives=("skip_connect", "avg_pool_3x3"))
    with pytest.raises(NonFiniteLossError, match="became NaN or infinite in epoch 2"):
        search_run.run_search(settings, tmp_path, log=lambda line: None)
    assert os.listdir(tmp_path / "checkpoints") == ["epoch_0001.npz"]


def test_collapse_is_noticed():
    assert search_run.collapse_warning(get_genotype("ADVRUSH")) is None
    edges = [["skip_connect", 0], ["skip_connect", 1]]
    collapsed = Genotype(edges, [2], edges, [2])
    assert "2 of the normal cell's 2 edges" in search_run.collapse_warning(collapsed)


def test_a_search_streams_images_of_many_sizes(imagenet_like):
    settings = SearchSettings(
        dataset=str(imagenet_like[0]), image_size=16, batch_size=8, train_portion=0.4
    )
    dataset = load_dataset(settings.dataset, image_size=settings.image_size)
    pairs, steps = search_run.make_pairs(settings, dataset)
    assert steps == 40 // 8
    seen = [set(), set()]
    for halves in pairs.take(steps).as_numpy_iterator():
        for numbers, (x, y) in zip(seen, halves, strict=True):
            assert x.shape == (8, 16, 16, 3)
            numbers.update(y.tolist())
    assert len(seen[0]) == 40
    assert not seen[0] & seen[1]
    validation = search_run.validation_batches(settings, dataset)
    labels = np.concatenate([y for _, y in validation.as_numpy_iterator()])
    assert set(labels.tolist()) == set(range(101)) - seen[0]
