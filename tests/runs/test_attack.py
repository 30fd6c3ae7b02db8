import shutil

import attrs
import keras
import numpy as np
import pytest

from advrush_tf.attacks.sanity_probes import Probed
from advrush_tf.data.dataset import load_dataset
from advrush_tf.errors import UserError
from advrush_tf.runs import attack as attack_module
from advrush_tf.runs.attack import run_attack
from advrush_tf.runs.attack_settings import AttackSettings
from support.workdirs import assert_tree

SMALL = {
    "dataset": "digits",
    "attacks": "fgsm,pgd5,apgd-ce",
    "epsilon": "1/10",
    "epsilons": "0,1/20",
    "test_images": 60,
    "batch_size": 16,
}


def settings(folder, **changes):
    values = SMALL | {"model": str(folder / "model.keras")} | changes
    lists = ("attacks", "epsilons", "source_model")
    split = {n: tuple(values[n].split(",")) for n in lists if values.get(n)}
    return AttackSettings(**(values | split))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two small models of the digits in one folder."""
    folder, data = tmp_path_factory.mktemp("models"), load_dataset("digits")
    layers = keras.layers
    for name, seed in (("model", 0), ("other", 1)):
        keras.utils.set_random_seed(seed)
        model = keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                layers.Conv2D(8, 3, activation="relu"),
                layers.Flatten(),
                layers.Dense(10),
            ]
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.01), loss)
        x = data.train.images / np.float32(255)
        model.fit(x, data.train.labels, epochs=4, verbose=0)
        model.save(folder / f"{name}.keras")
    return folder


@pytest.fixture(scope="module")
def finished(models, tmp_path_factory):
    workdir, lines = tmp_path_factory.mktemp("finished"), []
    chosen = settings(models, source_model=str(models / "other.keras"))
    return workdir, run_attack(chosen, workdir, log=lines.append), lines


def test_the_page_to_write_next_is_of_the_same_model(models, finished):
    workdir, _, lines = finished
    model = models / "model.keras"
    assert (
        f"launch/landscape.py --model={model} --epsilon=1/10 --run={workdir}"
        in (lines[-1])
    )


def test_the_numbers_are_those_of_the_stored_images(models, finished):
    workdir, results, _ = finished
    model = keras.models.load_model(models / "model.keras")
    data = load_dataset("digits")
    x, y = data.test.drawn(60, 0).unit_arrays()
    clean = np.argmax(model(x, training=False), -1) == y
    assert results["clean"]["accuracy"] == pytest.approx(clean.mean())
    robust = clean.copy()
    for attack in results["attacks"][:6]:
        place = 0 if attack["crafted_on"].endswith("model.keras") else 1
        name = f"{place}_{attack['attack']}_1of10.npz"
        with np.load(workdir / "trials" / name) as file:
            images = file["images"]
        assert np.abs(images - x).max() <= 0.1 + 1e-6
        right = np.argmax(model(images, training=False), -1) == y
        assert attack["accuracy"] == pytest.approx((clean & right).mean())
        robust &= right
    assert results["robust"]["accuracy"] == pytest.approx(robust.mean())
    assert 0 < robust.mean() < clean.mean()


def test_a_finished_run_leaves_these_files(finished):
    assert_tree(finished[0], "attack")


def test_a_larger_epsilon_breaks_more(finished):
    attacks = finished[1]["attacks"]
    large = {a["attack"]: a["accuracy"] for a in attacks[:3]}
    small = {a["attack"]: a["accuracy"] for a in attacks[6:]}
    assert set(small) == set(large)
    assert all(large[name] < small[name] for name in small)


def test_transfer_is_weaker_than_an_attack_on_the_model_itself(finished):
    matrix = np.array(finished[1]["transfer"]["matrices"]["apgd-ce"])
    assert (np.diag(matrix) < matrix[::-1].diagonal()).all()


def test_crafting_for_others_as_well_breaks_the_same_images(models, finished, tmp_path):
    alone = attrs.evolve(settings(models), epsilons=())
    results = run_attack(alone, tmp_path, log=lambda line: None)
    assert results["transfer"] is None
    for here, there in zip(results["attacks"], finished[1]["attacks"], strict=False):
        assert here["accuracy"] == there["accuracy"]
        assert here["broken_by"] == there["broken_by"]
    matrix = finished[1]["transfer"]["matrices"]
    own = {attack["attack"]: attack["accuracy"] for attack in results["attacks"]}
    assert {name: rows[0][0] for name, rows in matrix.items()} == own


def test_the_same_model_elsewhere_goes_on_and_another_there_is_refused(
    models, finished, tmp_path, monkeypatch
):
    probed = Probed([], np.zeros(60, bool))
    monkeypatch.setattr(attack_module, "check_model", lambda *given: probed)
    trials = shutil.copytree(finished[0], tmp_path / "run") / "trials"
    (tmp_path / "run" / "results.json").unlink()
    written = {path: path.stat().st_mtime_ns for path in trials.iterdir()}
    model = shutil.copy(models / "model.keras", tmp_path)
    others = str(models / "." / "other.keras")
    chosen = settings(tmp_path, source_model=others, batch_size=10)
    again = run_attack(chosen, tmp_path / "run", log=lambda line: None)
    assert {path: path.stat().st_mtime_ns for path in trials.iterdir()} == written
    for name in ("clean", "robust", "seconds"):
        assert again[name] == finished[1][name]
    shutil.copy(models / "other.keras", model)
    with pytest.raises(UserError, match=r"model is .* there .* sha256 is"):
        run_attack(chosen, tmp_path / "run")


@pytest.mark.parametrize("renamed", ["0_fgsm_1of20", "1_fgsm_1of10"])
def test_a_renamed_trial_is_refused(models, finished, tmp_path, monkeypatch, renamed):
    probed = Probed([], np.zeros(60, bool))
    monkeypatch.setattr(attack_module, "check_model", lambda *given: probed)
    trials = shutil.copytree(finished[0], tmp_path / "run") / "trials"
    (tmp_path / "run" / "results.json").unlink()
    (trials / f"{renamed}.npz").replace(trials / "0_fgsm_1of10.npz")
    chosen = settings(models, source_model=str(models / "other.keras"))
    words = r"0_fgsm_1of10\.npz belongs to another evaluation or attack\. Delete it"
    with pytest.raises(UserError, match=words):
        run_attack(chosen, tmp_path / "run", log=lambda line: None)


def test_a_model_of_other_data_is_refused(models, tmp_path):
    layers = keras.layers
    wide = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Flatten(), layers.Dense(10)]
    )
    few = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(7)])
    wide.save(tmp_path / "wide.keras")
    few.save(tmp_path / "few.keras")
    for name, words in (("wide", "cannot classify images"), ("few", "has 7 classes")):
        chosen = settings(models, model=str(tmp_path / f"{name}.keras"))
        with pytest.raises(UserError, match=words):
            run_attack(chosen, tmp_path / "none")
    assert not (tmp_path / "none").exists()
