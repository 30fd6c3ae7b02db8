import hashlib
import os
import shutil

import keras
import numpy as np
import pytest

from advrush_tf.errors import UserError
from advrush_tf.files import read_json, write_json
from advrush_tf.runs import landscape as landscape_run
from advrush_tf.runs.landscape_settings import LandscapeSettings
from advrush_tf.runs.search import run_search
from advrush_tf.runs.search_settings import SearchSettings
from support.workdirs import assert_tree

SMALL_SEARCH = {
    "dataset": "digits",
    "epochs": 2,
    "warmup_epochs": 1,
    "init_channels": 1,
    "num_cells": 1,
    "num_nodes": 1,
    "stem_multiplier": 1,
    "primitives": ("none", "max_pool_3x3", "skip_connect", "sep_conv_3x3"),
    "batch_size": 256,
}
SMALL = {
    "dataset": "digits",
    "test_images": 6,
    "batch_size": 4,
    "top": 2,
    "lanczos_steps": 3,
    "epsilon": "0.1",
    "surface_points": 3,
    "cut_points": 4,
    "path_epochs": 1,
    "sample_images": 8,
    "sample_curvature_images": 2,
}


def _quiet(line):
    del line


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "search"
    run_search(SearchSettings(**SMALL_SEARCH), workdir, log=_quiet)
    return workdir


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(2, 3, activation="tanh"),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )
    path = tmp_path_factory.mktemp("models") / "model.keras"
    model.save(path)
    return path


@pytest.fixture(scope="module")
def settings(search, classifier):
    return LandscapeSettings(
        model=(str(classifier), str(search)), sample_genotypes=4, **SMALL
    )


@pytest.fixture(scope="module")
def finished(settings, search, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("inspection")
    lines = []
    report = workdir / "report.html"
    results = landscape_run.run_landscape(
        settings, workdir, [search], report, log=lines.append
    )
    return workdir, results, lines


def test_an_inspection_leaves_its_results(finished, search):
    workdir, results, lines = finished
    assert results == read_json(workdir / "inspection.json")
    names = list(results["models"])
    assert [name.split("/")[-1] for name in names] == ["model.keras", search.name]
    figures = {path.stem for path in workdir.glob("*.png")}
    assert {"curvature", "spectra", "eigenvalues", "surfaces", "cuts"} <= figures
    assert "architectures" in figures
    assert {"search_search", "search_search_alphas_normal"} <= figures
    assert os.listdir(workdir / "tensorboard")
    html = (workdir / "report.html").read_text()
    assert all(name in html for name in names)
    assert any("report.html" in line for line in lines)
    sampled = results["architectures"]["sampled"]
    assert [sample["seed"] for sample in sampled] == [0, 1, 2, 3]
    assert results["architectures"]["found"]["seed"] is None
    # Six images cannot be of ten classes.
    (missing,) = results["warnings"]
    assert (missing["code"], missing["model"]) == ("missing_classes", None)
    assert f"warning: {missing['sentence']}" in lines
    assert results["split"] == "test"


def test_a_finished_run_leaves_these_files(finished):
    assert_tree(finished[0], "landscape")


def test_the_hashes_are_those_of_the_files_that_were_read(finished, search, classifier):
    files = classifier, search / "checkpoints" / "epoch_0002.npz"
    expected = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    recorded = read_json(finished[0] / "settings.json")
    assert recorded["sha256"] == expected


def test_searches_of_one_name_are_told_apart(search, tmp_path):
    runs = [tmp_path / above / "run" for above in ("first", "second")]
    runs += [tmp_path / "run_2"]
    for run in runs:
        shutil.copytree(search, run)
    again, lines = tmp_path / "first" / ".." / "first" / "run", []
    landscape_run.run_landscape(
        None, tmp_path / "new", [*runs, again], log=lines.append
    )
    drawn = {path.stem for path in (tmp_path / "new").glob("search_*.png")}
    ends = ("", "_alphas_normal", "_alphas_reduce")
    stems = ("search_run", "search_run_2", "search_run_2_2")
    assert drawn == {stem + end for stem in stems for end in ends}
    assert len(lines) == 3
    for run, stem, line in zip(runs, stems, lines, strict=True):
        assert str(run) in line and f"{stem}.png" in line


def test_genotypes_sampled_before_an_interruption_are_not_sampled_again(
    finished, settings, tmp_path, monkeypatch
):
    folder = shutil.copytree(finished[0] / "measured", tmp_path / "measured")
    shutil.copy(finished[0] / "settings.json", tmp_path)
    known = read_json(folder / "sampled.json")
    write_json(folder / "sampled.json", known | {"genotypes": known["genotypes"][:2]})
    measure, seeds = landscape_run.ArchitectureSampler.measure, []

    def measured(self, genotype, seed=None):
        seeds.append(seed)
        return measure(self, genotype, seed)

    monkeypatch.setattr(landscape_run.ArchitectureSampler, "measure", measured)
    for done in ("measure_curvature", "train_paths"):
        monkeypatch.setattr(landscape_run, done, None)
    results = landscape_run.run_landscape(settings, tmp_path, log=_quiet)
    assert seeds == [2, 3, None]
    assert results == finished[1]


def test_the_numbers_do_not_depend_on_the_batch(finished, classifier, tmp_path):
    settings = LandscapeSettings(model=(str(classifier),), **{**SMALL, "batch_size": 6})
    results = landscape_run.run_landscape(settings, tmp_path, log=_quiet)
    (found,) = results["models"].values()
    expected = next(iter(finished[1]["models"].values()))
    for name, numbers in expected["curvature"].items():
        np.testing.assert_allclose(
            found["curvature"][name]["mean"], numbers["mean"], rtol=1e-3
        )


def test_a_model_of_probabilities_is_refused(tmp_path):
    layers = keras.layers
    softmax = [keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(10, "softmax")]
    path = tmp_path / "softmax.keras"
    keras.Sequential(softmax).save(path)
    settings = LandscapeSettings(model=(str(path),), **SMALL)
    with pytest.raises(UserError, match=r"softmax\.keras cannot be .* probabilities"):
        landscape_run.run_landscape(settings, tmp_path / "run", log=_quiet)


def test_without_models_a_report_tells_of_runs(search, tmp_path):
    report = tmp_path / "new" / "report.html"
    run = landscape_run.run_landscape
    assert run(None, tmp_path, [search, search], report, log=_quiet) is None
    assert report.read_text().count("<h2") == 1
    assert (tmp_path / "search_search.png").exists()


def test_what_cannot_be_told_of_is_one_line(search, tmp_path):
    def refused(words, runs, report=None):
        with pytest.raises(UserError, match=words):
            landscape_run.run_landscape(None, tmp_path, runs, report, log=_quiet)

    file = tmp_path / "file"
    file.write_text("a file")
    refused("none holds nothing to report", [tmp_path / "none"])
    refused("a folder; it must be a file", [search], tmp_path)
    refused("Writing the report .* failed", [search], file / "report.html")
    fit = tmp_path / "fit"
    fit.mkdir()
    (fit / "fit.json").write_text("{}")
    refused("There is nothing to draw", [fit])
    refused("fit.json or a picture beside it is damaged", [fit], tmp_path / "r.html")


def test_what_cannot_be_inspected_is_one_line(classifier, search, tmp_path):
    def refused(words, **changes):
        values = {"model": (str(classifier),), **SMALL, **changes}
        with pytest.raises(UserError, match=words):
            landscape_run.run_landscape(
                LandscapeSettings(**values), tmp_path, log=_quiet
            )
        assert not list(tmp_path.iterdir())

    refused("no model file none.keras", model=("none.keras",))
    refused("one --model that is a search's workdir", sample_genotypes=4)
    refused("is no search's folder", model=(str(tmp_path),))
    refused("--top is 65; it must be 64 or less", top=65, lanczos_steps=65)


def test_a_damaged_genotype_of_a_search_is_noticed_in_one_line(tmp_path):
    assert landscape_run._own_genotype(tmp_path) is None
    (tmp_path / "genotype.json").write_text("{")
    with pytest.raises(UserError, match=r"Let the search write it again\.$"):
        landscape_run._own_genotype(tmp_path)
