import shutil

import attrs
import keras
import numpy as np
import pytest

from advrush_tf.data.dataset import load_dataset
from advrush_tf.errors import NonFiniteLossError, UserError
from advrush_tf.files import read_json, sha256
from advrush_tf.genotypes.genotype import Genotype, get_genotype, random_genotype
from advrush_tf.nn.resnet import ResNet18
from advrush_tf.runs import fit as fit_run
from advrush_tf.runs.recipes import fit_settings
from advrush_tf.runs.report import read_section
from support.workdirs import assert_tree

SMALL = {
    "dataset": "digits",
    "epochs": 3,
    "init_channels": 2,
    "num_cells": 1,
    "batch_size": 128,
    "epsilon": 0.1,
    "attack_steps": 2,
    "eval_steps": 3,
    "validation_portion": 0.1,
    "test_images": 50,
    "ema_decay": 0.9,
    "awp_gamma": 0.01,
    "drop_path": 0.1,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished")
    lines = []
    report = fit_run.run_fit(fit_settings(**SMALL), workdir, log=lines.append)
    return workdir, report, lines


def test_a_fit_leaves_its_results(finished):
    workdir, report, lines = finished
    assert read_json(workdir / "fit.json") == report
    assert report["settings"]["epsilon"] == 0.1
    cells = get_genotype("ADVRUSH").to_dict()
    assert report["network"]["genotype"]["normal"] == cells["normal"]
    assert [row["epoch"] for row in report["history"]] == [1, 2, 3]
    assert report["seconds"] > sum(row["seconds"] for row in report["history"])
    robust = [row["val_robust_accuracy"] for row in report["history"]]
    assert report["best"]["val_robust_accuracy"] == max(robust)
    for name in ("curves.png", "model_last.keras", "genotype.json", "settings.json"):
        assert (workdir / name).stat().st_size > 0
    assert len([line for line in lines if line.startswith("epoch ")]) == 3
    assert lines[0].startswith("fit on digits, ")
    # So small a network is at chance.
    (warning,) = report["warnings"]
    assert report["split"] == "test"
    assert "gives all 50 images that were tried the class" in warning["sentence"]
    assert f"warning: {warning['sentence']}" in lines
    command = f"launch/attack.py --model={workdir / 'model.keras'} --epsilon=0.1 "
    assert command in lines[-1]


def test_a_finished_run_leaves_these_files(finished):
    assert_tree(finished[0], "fit")


def test_another_model_is_not_taken_for_the_best(finished, tmp_path):
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    shutil.copy(workdir / "checkpoints" / "epoch_0003.npz", workdir / "model.keras")
    with pytest.raises(UserError, match=r"model.keras is not the model that fit.json"):
        fit_run.run_fit(fit_settings(**SMALL), workdir)
    with pytest.raises(UserError, match=r"model.keras is not the model that fit.json"):
        read_section(workdir)


def test_the_models_are_what_the_report_says(finished):
    workdir, report, _ = finished
    dataset = load_dataset("digits")
    x, y = dataset.test.drawn(50, 0).unit_arrays()
    for name, file in (("best", "model.keras"), ("last", "model_last.keras")):
        network = keras.models.load_model(workdir / file)
        hits = np.argmax(network(x, training=False), -1) == y
        assert report["test"][name]["accuracy"] == pytest.approx(hits.mean())
        assert network.provenance["settings"] == report["settings"]
    assert network.provenance["epoch"] == 3
    assert network.genotype == get_genotype("ADVRUSH")


def test_another_genotype_at_the_same_path_is_refused(finished, tmp_path):
    workdir, *_ = finished
    path = tmp_path / "cells.json"
    path.write_text(random_genotype(0).to_json())
    settings = fit_settings(**SMALL, genotype=str(path))

    def stop(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_run.run_fit(settings, tmp_path / "run", log=stop)
    path.write_text(random_genotype(1).to_json())
    (tmp_path / "run" / "fit.json").write_bytes((workdir / "fit.json").read_bytes())
    for _ in range(2):
        with pytest.raises(UserError, match="another genotype"):
            fit_run.run_fit(settings, tmp_path / "run")
        (tmp_path / "run" / "fit.json").unlink(missing_ok=True)


def test_a_fit_goes_on_from_what_a_fit_has_saved(finished):
    path = str(finished[0] / "model.keras")
    settings = fit_settings(dataset="digits", model=path)
    network = fit_run.build_network(settings, load_dataset("digits"), None)
    saved = keras.models.load_model(path)
    for one, other in zip(network.get_weights(), saved.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert network.genotype == get_genotype("ADVRUSH")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Files of classifiers of Keras' own layers."""
    folder, layers = tmp_path_factory.mktemp("plain"), keras.layers
    for name, shape, trainable in (
        ("model", (8, 8, 1), True),
        ("wide", (8, 8, 3), True),
        ("frozen", (8, 8, 1), False),
    ):
        dense = layers.Dense(10, trainable=trainable)
        keras.Sequential([keras.Input(shape), layers.Flatten(), dense]).save(
            folder / f"{name}.keras"
        )
    return folder


def test_any_classifier_of_keras_is_fitted_on(plain, tmp_path):
    path = shutil.copy(plain / "model.keras", tmp_path)
    given = {"dataset": "digits", "model": str(path), "epochs": 1, "epsilon": 0.1}
    given |= {"attack_steps": 1, "eval_steps": 1, "learning_rate": 1e-3}
    settings = fit_settings(**given, test_images=50)
    report = fit_run.run_fit(settings, tmp_path / "run", log=lambda line: None)
    assert report["settings"]["model"] == str(path)
    assert report["settings"]["sha256"] == sha256(tmp_path / "model.keras")
    assert report["settings"]["init_channels"] is None
    before, after = (
        keras.models.load_model(file).get_weights()
        for file in (path, tmp_path / "run" / "model.keras")
    )
    moved = [np.abs(b - a).max() for b, a in zip(before, after, strict=True)]
    assert 0 < max(moved) < 0.1
    shutil.copy(plain / "wide.keras", path)
    with pytest.raises(UserError, match="cannot classify images of shape"):
        fit_run.run_fit(settings, tmp_path / "run")
    keras.models.load_model(plain / "model.keras").save(path)
    with pytest.raises(UserError, match=r"sha256 is .* there and .* here"):
        fit_run.run_fit(settings, tmp_path / "run")


def test_a_model_that_cannot_be_fitted_on_is_named(plain, tmp_path):
    for name, words in (
        ("none", "There is no model file .*none.keras"),
        ("wide", "wide.keras cannot classify images of shape"),
        ("frozen", "frozen.keras has no trainable weights"),
    ):
        settings = fit_settings(model=str(plain / f"{name}.keras"), dataset="digits")
        with pytest.raises(UserError, match=words):
            fit_run.run_fit(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_parts_of_the_data_are_disjoint_and_test_is_apart():
    settings = fit_settings(**SMALL).for_images((8, 8, 1))
    dataset = load_dataset("digits")
    data = fit_run.FitData(settings, dataset)
    held_out = np.concatenate([x for x, _ in data.validation()])
    assert len(held_out) == round(0.1 * len(dataset.train.labels))
    assert data.steps_per_epoch == (len(dataset.train.labels) - len(held_out)) // 128
    assert len(data.train) + len(held_out) == len(dataset.train)
    trial = fit_run.FitData(attrs.evolve(settings, train_images=600), dataset)
    assert (len(trial.train), len(trial.held_out)) == (540, 60)
    together = np.concatenate([data.train.images, data.held_out.images])
    counts = [
        np.unique(i, axis=0, return_counts=True)
        for i in (together, dataset.train.images)
    ]
    for one, other in zip(*counts, strict=True):
        np.testing.assert_array_equal(one, other)
    test = np.concatenate([x for x, _ in data.test()])
    np.testing.assert_allclose(test * 255, dataset.test.drawn(50, 0).images, atol=1e-4)


@pytest.mark.parametrize("normalise", [False, True])
def test_a_cutout_is_zero_for_the_network(normalise):
    dataset = load_dataset("digits")

    def batch(cutout):
        settings = fit_settings(**SMALL, cutout=cutout, normalise=normalise)
        return next(iter(fit_run.FitData(settings, dataset).training()))[0].numpy()

    whole, blotted = batch(0), batch(4)
    colour = np.unique(blotted[blotted != whole])
    np.testing.assert_array_equal(colour, np.float32(dataset.mean if normalise else 0))


def test_the_test_split_is_read_only_at_the_end(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(fit_run, "_fit", lambda *a: order.append("fit"))
    monkeypatch.setattr(fit_run.FitData, "test", lambda self: order.append("test"))
    written = tmp_path / "fit.json"
    monkeypatch.setattr(
        fit_run, "write_report", lambda *a: written.write_text('["report"]')
    )
    monkeypatch.setattr(fit_run, "draw_record", lambda *a: None)
    report = fit_run.run_fit(fit_settings(**SMALL), tmp_path)
    assert order + report == ["fit", "test", "report"]


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("piecewise", [1.0] * 3 + [0.1] * 2 + [0.01] * 3),
        ("cosine", [0.5 * (1 + np.cos(np.pi * e / 8)) for e in range(8)]),
        ("exponential", [0.97**e for e in range(8)]),
    ],
)
def test_schedules_change_with_the_epoch(schedule, rates):
    settings = fit_settings(schedule=schedule, epochs=8, learning_rate=1.0)
    made = fit_run.make_schedule(settings, steps_per_epoch=5)
    got = [[float(made(5 * epoch + step)) for step in (0, 4)] for epoch in range(8)]
    np.testing.assert_allclose(got, np.transpose([rates, rates]), rtol=1e-5)


def test_the_official_rate_drops_with_the_100th_and_the_150th_epoch():
    made = fit_run.make_schedule(fit_settings("pgd"), steps_per_epoch=10)
    rates = [float(made(10 * (epoch - 1))) for epoch in (1, 99, 100, 149, 150, 200)]
    np.testing.assert_allclose(rates, [0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rtol=1e-6)


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_a_short_fit_begins_with_the_full_rate(epochs):
    made = fit_run.make_schedule(fit_settings("pgd", epochs=epochs), steps_per_epoch=5)
    assert [float(made(step)) for step in range(5)] == pytest.approx([0.1] * 5)


def test_accuracies_are_measured_now_and_then_and_at_the_end():
    settings = fit_settings(robust_eval_every=3, epochs=8)
    assert fit_run.evaluated_epochs(settings) == [3, 6, 8]


def test_unfit_settings_are_refused_and_leave_no_trace(tmp_path):
    for change, words in (
        ({"batch_size": 2000}, "batch"),
        ({"image_size": 32}, "--image_size is 32"),
        ({"num_cells": 3, "stem": "imagenet"}, "pixels"),
        ({"genotype": "NO_SUCH"}, "NO_SUCH"),
        ({"cutout": 8}, "cutout"),
        ({"validation_portion": 1e-4}, "--validation_portion is 0.0001"),
        ({"validation_portion": 0.9999}, "--validation_portion is 0.9999"),
    ):
        with pytest.raises(UserError, match=words):
            settings = fit_settings(**{**SMALL, **change})
            fit_run.run_fit(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_poisoned_weights_are_not_saved(tmp_path, monkeypatch):
    record = fit_run.EpochRecorder.on_epoch_end

    def poison(self, epoch, logs=None):
        # No loss shows it before the next measured epoch, as ReLUs hide it.
        if epoch == 1:
            weight = self.model.network.trainable_variables[0]
            weight.assign(np.full(weight.shape, np.nan))
        record(self, epoch, logs)

    monkeypatch.setattr(fit_run.EpochRecorder, "on_epoch_end", poison)
    settings = fit_settings(**SMALL, robust_eval_every=3)
    with pytest.raises(NonFiniteLossError, match="became NaN or infinite in epoch 2"):
        fit_run.run_fit(settings, tmp_path, log=lambda line: None)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [
        "epoch_0001.npz"
    ]


def test_a_loss_that_is_not_finite_stops_the_fit(tmp_path):
    settings = fit_settings(**{**SMALL, "learning_rate": 1e30, "clip_norm": 0.0})
    with pytest.raises(NonFiniteLossError, match=r"loss became .* in epoch \d"):
        fit_run.run_fit(settings, tmp_path, log=lambda line: None)
    assert not (tmp_path / "fit.json").exists()


def test_a_fit_streams_images_of_many_sizes(imagenet_like, tmp_path):
    edges, path = (("sep_conv_3x3", 0), ("max_pool_3x3", 1)), tmp_path / "cells.json"
    Genotype(edges, (2,), edges, (2,)).save(path)
    settings = fit_settings(
        "standard",
        "imagenet",
        **{name: SMALL[name] for name in ("init_channels", "num_cells")},
        genotype=str(path),
        dataset=str(imagenet_like[0]),
        image_size=32,
        batch_size=16,
        epochs=1,
        validation_portion=0.2,
        eval_steps=1,
    )
    workdir = tmp_path / "run"
    report = fit_run.run_fit(settings, workdir, log=lambda line: None)
    dataset = load_dataset(settings.dataset, image_size=32)
    network = keras.models.load_model(workdir / "model.keras")
    assert network.get_config()["mean"] == dataset.mean
    x, y = dataset.test.unit_arrays()
    hits = np.argmax(network(x, training=False), -1) == y
    assert report["test"]["best"]["accuracy"] == pytest.approx(hits.mean())
    assert len(report["history"]) == 1


def test_damage_met_while_images_are_streamed_is_one_clear_line(
    imagenet_like, tmp_path, monkeypatch
):
    folder = shutil.copytree(imagenet_like[0], tmp_path / "copy") / "5.1.0"
    path = folder / "imagenet2012-train.tfrecord-00002-of-00005"
    path.write_bytes(path.read_bytes()[:5000])

    def read(model, data, *args):
        list(data.training().take(data.steps_per_epoch))

    monkeypatch.setattr(fit_run, "_fit", read)
    small = {"init_channels": 2, "num_cells": 1, "batch_size": 16, "image_size": 32}
    settings = fit_settings("standard", "imagenet", dataset=str(folder), **small)
    with pytest.raises(UserError, match=r"truncated record .* copy it again"):
        fit_run.run_fit(settings, tmp_path / "run")


def test_the_baseline_is_built_too():
    settings = fit_settings("standard", "resnet18", init_channels=2)
    dataset = load_dataset("digits")
    network = fit_run.build_network(settings.for_images((8, 8, 1)), dataset, None)
    assert isinstance(network, ResNet18)
    assert network.get_config()["mean"] == dataset.mean
