"""Files that were written before the modules moved into folders load and go on.

testdata/before was written by the version whose modules lay side by side:
`search` and `fit` are workdirs of the commands below, stopped after the second and the
first epoch; the .keras files hold a network, a search and a fit; outputs.npz has what
that version computed with them.
"""

import shutil

import keras
import numpy as np
import pytest

import advrush_tf
from advrush_tf.files import read_json
from advrush_tf.search.history import read_history
from support.processes import ROOT, launch

BEFORE = ROOT / "testdata" / "before"
TINY = ("--dataset=digits", "--init_channels=2", "--num_cells=2", "--batch_size=128")
COMMANDS = {
    "search": (*TINY, "--epochs=3", "--warmup_epochs=2", "--num_nodes=2"),
    "fit": (
        *(*TINY, "--epochs=2", "--genotype=ADVRUSH", "--objective=pgd"),
        *(
            "--attack_steps=2",
            "--eval_steps=2",
            "--eval_step_size=0.01",
            "--test_images=64",
        ),
    ),
}


def recorded(prefix):
    """The recorded outputs whose names begin with a prefix, without it."""
    with np.load(BEFORE / "outputs.npz") as file:
        return {n.removeprefix(prefix): file[n] for n in file if n.startswith(prefix)}


def assert_recorded(got, expected, rtol=1e-5, atol=1e-7):
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol, atol, err_msg=name)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("fit/model.keras", "model"),
        ("resnet18.keras", "resnet18"),
        ("search.keras", "search"),
        ("fit.keras", "fit"),
    ],
)
def test_a_model_gives_the_recorded_logits(file, name):
    model = keras.models.load_model(BEFORE / file)
    expected = recorded(f"{name}/")
    logits = model(expected["x"], training=False)
    np.testing.assert_allclose(logits, expected["logits"], rtol=1e-5, atol=1e-6)


def test_a_search_model_takes_the_recorded_step():
    model, expected = keras.models.load_model(BEFORE / "search.keras"), recorded("")
    halves = [tuple(expected[f"search/{n}_{h}"] for n in "xy") for h in "wa"]
    model.epoch = 1
    logs = model.train_step(halves)
    logs["alphas_reduce"] = model.alphas[1]
    assert_recorded(logs, recorded("search/after/"), 1e-4)


def test_a_fit_model_evaluates_and_takes_the_recorded_step():
    model, data = keras.models.load_model(BEFORE / "fit.keras"), recorded("fit/")
    arguments = data["x"], data["y"]
    logs = model.evaluate(*arguments, verbose=0, return_dict=True)
    assert_recorded(logs, recorded("fit/evaluate/"))
    model.reset_metrics()
    logs = model.train_on_batch(*arguments, return_dict=True)
    assert_recorded(logs, recorded("fit/after/"), 1e-4)


def test_a_genotype_is_read_with_its_provenance():
    genotype = advrush_tf.Genotype.load(BEFORE / "genotype.json")
    assert genotype.normal[:2] == (("dil_conv_3x3", 1), ("dil_conv_5x5", 0))
    assert genotype.reduce[2:] == (("dil_conv_3x3", 0), ("sep_conv_5x5", 2))
    assert genotype.provenance["settings"]["gamma"] == 0.01
    alphas = (genotype.provenance[f"alphas_{kind}"] for kind in ("normal", "reduce"))
    assert advrush_tf.Genotype.from_alphas(*alphas) == genotype


def _resumed(name, tmp_path):
    workdir = tmp_path / name
    shutil.copytree(BEFORE / name, workdir)
    flags = *COMMANDS[name], f"--workdir={workdir}"
    result = launch(name, *flags, optimised=name == "search")
    assert result.returncode == 0, result.stderr[-2000:]
    assert "Resuming" in result.stdout
    return workdir


def test_a_search_goes_on_as_it_would_have_then(tmp_path):
    history = read_history(_resumed("search", tmp_path))
    assert history.epochs.tolist() == [1, 2, 3]
    expected = recorded("resumed_search/")
    alphas = history.genotypes[-1].provenance
    for name in ("alphas_normal", "alphas_reduce"):
        # A step moves them by 3e-4; Adam magnifies the rounding of small gradients.
        assert_recorded(alphas, {name: expected.pop(name)}, 1e-3, 1e-5)
    last = {name: values[-1] for name, values in history.metrics.items()}
    assert_recorded(last, expected, 1e-3)


def test_a_fit_goes_on_as_it_would_have_then(tmp_path):
    workdir = _resumed("fit", tmp_path)
    history = read_json(workdir / "fit.json")["history"]
    assert [row["epoch"] for row in history] == [1, 2]
    assert_recorded(history[-1], recorded("resumed_fit/"), 1e-3)
    model = keras.models.load_model(workdir / "model.keras")
    assert model.provenance["settings"]["genotype"] == "ADVRUSH"
