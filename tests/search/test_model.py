import json
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from advrush_tf import AdvRushSearchModel, Genotype, NonFiniteLossError
from advrush_tf.data.pipeline import bilevel_pairs
from advrush_tf.training.optimizers import EpochCosine, MomentumSGD
from support.processes import run_in_a_process
from support.tiny_search import (
    KINDS,
    MEAN,
    STD,
    assert_equal,
    cross_entropy,
    numbers_of,
    random_batch,
    random_pair,
    tiny_compiled,
    tiny_model,
)

# Keras' protocol


def test_evaluate_and_predict_are_numpys_numbers():
    model = tiny_compiled(run_eagerly=False)
    x, y = random_batch(5, size=11)
    logits = model.predict(x, batch_size=4, verbose=0)
    assert logits.shape == (11, 3)
    np.testing.assert_allclose(logits, model(x, training=False), rtol=1e-4, atol=1e-6)
    results = model.evaluate(x, y, batch_size=4, verbose=0, return_dict=True)
    assert set(results) >= {"loss", "accuracy"}
    np.testing.assert_allclose(results["loss"], cross_entropy(logits, y), rtol=1e-5)
    hits = np.mean(logits.argmax(-1) == y)
    np.testing.assert_allclose(results["accuracy"], hits, rtol=1e-6)


def test_images_are_normalised_inside():
    model, plain = tiny_model(mean=MEAN, std=STD), tiny_model(seed=1)
    plain.set_weights(model.get_weights())
    x, _ = random_batch(0)
    normalised = (x - np.float32(MEAN)) / np.float32(STD)
    np.testing.assert_allclose(model(x), plain(normalised), rtol=1e-4, atol=1e-6)
    assert np.max(np.abs(model(x) - plain(x))) > 1e-3


def test_each_optimizer_owns_its_variables():
    model = tiny_compiled()
    alphas = {v.path for v in model.alphas}
    assert len(alphas) == 2
    weights = {v.path for v in model.network_weights}
    assert weights | alphas == {v.path for v in model.trainable_variables}
    assert not weights & alphas
    shapes = [v.shape for v in model.optimizer.velocities]
    assert shapes == [w.shape for w in model.network_weights]
    shapes = [v.shape for v in model.alpha_optimizer.variables[2:]]
    assert shapes == [a.shape for a in model.alphas for _ in range(2)]


def test_metrics_have_their_names():
    model = tiny_compiled()
    names = {"loss", "accuracy", "alpha_loss", "alpha_accuracy", "penalty"}
    names |= {"penalty_share", "entropy"}
    assert {metric.name for metric in model.metrics} == names
    assert set(model.train_step(random_pair())) == names


def test_entropy_of_uniform_alphas_is_that_of_five_operations():
    model = tiny_model()
    for alphas in model.alphas:
        alphas.assign(np.full(alphas.shape, 0.5))
    np.testing.assert_allclose(model.entropy(), np.log(5), rtol=1e-6)
    generator = np.random.default_rng(0)
    values = [generator.normal(size=alphas.shape) for alphas in model.alphas]
    for alphas, value in zip(model.alphas, values, strict=True):
        alphas.assign(value)
    p = np.exp(np.concatenate(values))
    p /= p.sum(-1, keepdims=True)
    expected = np.mean(np.sum(-p * np.log(p), -1))
    np.testing.assert_allclose(model.entropy(), expected, rtol=1e-5)


def test_genotype_is_that_of_the_alphas():
    model = tiny_model()
    generator = np.random.default_rng(4)
    normal, reduce = (
        generator.normal(size=alphas.shape).astype(np.float32)
        for alphas in model.alphas
    )
    for alphas, value in zip(model.alphas, (normal, reduce), strict=True):
        alphas.assign(value)
    assert model.genotype() == Genotype.from_alphas(normal, reduce, KINDS)
    assert model.genotype() != Genotype.from_alphas(reduce, normal, KINDS)


# Saving


_ELSEWHERE = """
import json
import keras, numpy as np
model = keras.saving.load_model(folder + "/model.keras")
data = np.load(folder + "/data.npz")
numbers = {"logits": model.predict(data["x"], verbose=0)}
for name in ("optimizer", "alpha_optimizer"):
    for i, variable in enumerate(getattr(model, name).variables):
        numbers[f"{name}{i}"] = variable.numpy()
logs = model.train_step(((data["x"], data["y"]), (data["x2"], data["y2"])))
assert logs["penalty"] > 0
numbers |= {f"after{i}": v.numpy() for i, v in enumerate(model.variables)}
np.savez(folder + "/numbers.npz", **numbers)
config = model.get_compile_config()
with open(folder + "/config.json", "w") as file:
    json.dump([config, model.get_config()], file, sort_keys=True)
"""


def test_saved_model_goes_on_in_a_new_process(tmp_path):
    model = tiny_compiled(
        optimizer=MomentumSGD(EpochCosine(0.25, 0.125, 5, 2), momentum=0.5),
        alpha_optimizer=keras.optimizers.Adam(0.125, beta_1=0.25),
        gamma=0.75,
        lambda_=3.0,
        h=0.5,
        warmup_epochs=1,
        squared=True,
        model_settings={"mean": MEAN, "std": STD},
    )
    pairs = (tf.data.Dataset.from_tensors(random_pair(seed)) for seed in range(2))
    model.fit(next(pairs).concatenate(next(pairs)), verbose=0)
    model.save(tmp_path / "model.keras")
    (x, y), (x2, y2) = pair = random_pair(7)
    np.savez(tmp_path / "data.npz", x=x, y=y, x2=x2, y2=y2)
    run_in_a_process(f"folder = {str(tmp_path)!r}\n{_ELSEWHERE}")

    there = np.load(tmp_path / "numbers.npz")
    assert_equal([there["logits"]], [model.predict(x, verbose=0)])
    for name in ("optimizer", "alpha_optimizer"):
        variables = getattr(model, name).variables
        stored = [there[f"{name}{i}"] for i in range(len(variables))]
        assert_equal(stored, numbers_of(variables))
        assert any(np.any(v != 0) for v in stored[2:])
    config = [model.get_compile_config(), model.get_config()]
    expected = json.loads(json.dumps(config, sort_keys=True))
    assert json.loads((tmp_path / "config.json").read_text()) == expected
    model.reset_metrics()
    model.train_step(pair)
    stored = [there[f"after{i}"] for i in range(len(model.variables))]
    assert_equal(stored, numbers_of(model.variables))


def test_a_fit_that_goes_on_is_past_the_warm_up(tmp_path):
    model = tiny_compiled(warmup_epochs=2)
    pairs, path = tf.data.Dataset.from_tensors(random_pair()), tmp_path / "a.keras"
    # Saved in its last callback, an epoch is one that is over.
    saved = keras.callbacks.ModelCheckpoint(path)
    model.fit(pairs, epochs=2, verbose=0, callbacks=[saved])
    model.save_weights(tmp_path / "a.weights.h5")
    fresh = tiny_compiled(warmup_epochs=2)
    fresh.load_weights(tmp_path / "a.weights.h5")
    again = keras.models.load_model(path, compile=False)
    again.compile(warmup_epochs=2, run_eagerly=True)
    for one in (model, fresh, again, keras.models.load_model(path)):
        assert (one.epoch, one.penalised) == (2, True)
    history = again.fit(pairs, epochs=1, verbose=0).history
    assert history["penalty"][0] > 0
    assert again.epoch == 3


def test_a_fit_without_a_penalised_epoch_warns():
    model = tiny_compiled(warmup_epochs=2)
    pairs = tf.data.Dataset.from_tensors(random_pair())
    with pytest.warns(UserWarning, match="after epoch 2, and .*warmup_epochs is 2"):
        model.fit(pairs, epochs=2, verbose=0)
    with warnings.catch_warnings(action="error", category=UserWarning):
        model.fit(pairs, epochs=1, verbose=0)
        plain = tiny_compiled(warmup_epochs=2, gamma=0)
        plain.fit(pairs, epochs=1, verbose=0)


def test_a_resumed_run_names_its_epoch():
    model = tiny_compiled(warmup_epochs=2, gamma=0)
    pairs = tf.data.Dataset.from_tensors(random_pair())
    model.fit(pairs, initial_epoch=2, epochs=3, verbose=0)
    assert model.epoch == 3


# Mistakes


@pytest.mark.parametrize(
    ("which", "name"), [(0, "loss"), (1, "alpha_loss")], ids=["weights", "alphas"]
)
def test_a_nan_stops_the_search_and_is_named(which, name):
    model = tiny_compiled()
    model.check_images = lambda x: None
    good, bad = random_pair(), random_pair()
    bad[which][0][0, 0, 0, 0] = np.nan
    steps = [good, good, good, bad]
    halves = tuple(
        tuple(np.stack([step[half][part] for step in steps]) for part in (0, 1))
        for half in (0, 1)
    )
    pairs = tf.data.Dataset.from_tensor_slices(halves)
    message = f"^{name} became nan in epoch 2, after "
    with pytest.raises(NonFiniteLossError, match=message):
        model.fit(pairs, steps_per_epoch=2, epochs=2, verbose=0)


def test_logits_that_are_not_finite_are_no_right_answer():
    model = tiny_compiled()
    x, y = random_pair()[0]
    bias = model.network_weights[-1]
    bias.assign(np.full(bias.shape, np.nan))
    found = model.evaluate(x, np.zeros_like(y), verbose=0, return_dict=True)
    assert found["accuracy"] == 0


def test_a_nan_of_the_penalty_is_named():
    model = tiny_compiled(warmup_epochs=0)
    # Only the inference mode, in which the penalty runs, reads the statistics.
    variance = model.supernet.stem.moving_variance
    variance.assign(np.full(variance.shape, np.nan))
    with pytest.raises(NonFiniteLossError, match=r"^penalty became nan in epoch 1"):
        model.train_step(random_pair())


def test_plain_data_says_what_fit_needs():
    model = tiny_compiled()
    x, y = random_batch(0)
    plain = tf.data.Dataset.from_tensor_slices((x, y)).batch(2)
    named = "bilevel_pairs"
    for arguments in ((x, y), (x,), (plain,), (plain.repeat(),)):
        with pytest.raises(ValueError, match=named):
            model.fit(*arguments, verbose=0)
    for step in (lambda: model.train_step((x, y)), lambda: model.train_on_batch(x, y)):
        with pytest.raises(ValueError, match=named):
            step()


def test_a_batch_is_a_pair_of_batches():
    first, second = tiny_compiled(), tiny_compiled()
    second.set_weights(first.get_weights())
    logs = first.train_on_batch(random_pair(), return_dict=True)
    expected = second.train_step(random_pair())
    assert_equal(first.get_weights(), second.get_weights())
    for name, value in expected.items():
        assert logs[name] == float(value), name


def test_endless_pairs_need_steps_per_epoch():
    model = tiny_compiled()
    images = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3), np.uint8)
    pairs, steps = bilevel_pairs(images, np.arange(16) % 3, batch_size=4)
    with pytest.raises(ValueError, match="steps_per_epoch"):
        model.fit(pairs, verbose=0)
    history = model.fit(pairs, steps_per_epoch=steps, verbose=0).history
    assert int(model.optimizer.iterations) == steps == 2
    assert np.isfinite(history["loss"][0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 1}, "num_classes must be 2 or more, not 1"),
        ({"init_channels": 0}, "init_channels must be 1 or more, not 0"),
        ({"num_cells": 0}, "num_cells must be 1 or more, not 0"),
        ({"num_nodes": -3}, "num_nodes must be 1 or more, not -3"),
        ({"stem_multiplier": 0}, "stem_multiplier must be 1 or more, not 0"),
        ({"image_shape": (4, 8, 3)}, "at least 8x8 pixels .* image_shape is .4, 8, 3."),
        ({"image_shape": (8, 8)}, "image_shape is .8, 8."),
        ({"mean": MEAN}, "mean and std must both"),
        ({"dtype": "mixed_float16"}, "use mixed_bfloat16 or float32 instead of"),
    ],
)
def test_impossible_architectures(settings, message):
    usual = {"num_classes": 3, "image_shape": (8, 8, 3), "num_cells": 3}
    with pytest.raises(ValueError, match=message):
        AdvRushSearchModel(**{**usual, **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gamma": -0.5}, "gamma must be 0 or more and finite"),
        ({"warmup_epochs": -1}, "warmup_epochs must be 0 or more and finite"),
        ({"lambda_": 0}, "lambda_ must be positive"),
        ({"h": -1.5}, "h must be positive"),
        ({"penalty_batch": 0}, "penalty_batch must be 1 or more, not 0"),
    ],
)
def test_impossible_penalties(settings, message):
    model = tiny_model()
    with pytest.raises(ValueError, match=message):
        model.compile(**settings)


def test_models_are_saved_loaded_and_cloned_without_compile(tmp_path):
    model = tiny_model()
    model.save(tmp_path / "a.keras")
    loaded = keras.models.load_model(tmp_path / "a.keras", compile=False)
    loaded.save(tmp_path / "b.keras")
    assert_equal(numbers_of(loaded.weights), numbers_of(model.weights))
    clone = keras.models.clone_model(model)
    assert clone.get_config() == model.get_config()


def test_evaluate_takes_any_integer_labels_and_weights_examples():
    model = tiny_compiled()
    x, y = random_batch(0)
    expected = model.evaluate(x, y, verbose=0)
    for labels in (y.astype(np.uint8), y[:, None], y.astype(np.int64)):
        np.testing.assert_allclose(model.evaluate(x, labels, verbose=0), expected)
    weights = np.array([1, 1, 1, 0, 0, 0], np.float32)
    weighted = model.evaluate(x, y, sample_weight=weights, verbose=0)
    # As in Keras, losses are divided by the examples and hits by the weights.
    loss, accuracy = model.evaluate(x[:3], y[:3], verbose=0)
    np.testing.assert_allclose(weighted, [loss / 2, accuracy], rtol=1e-5)
    column = model.evaluate(x, y, sample_weight=weights[:, None], verbose=0)
    np.testing.assert_allclose(column, weighted, rtol=1e-6)


def test_the_best_validation_accuracy_can_be_kept(tmp_path):
    model = tiny_compiled()
    path = tmp_path / "best.keras"
    best = keras.callbacks.ModelCheckpoint(
        path, monitor="val_accuracy", mode="max", save_best_only=True
    )
    history = model.fit(
        tf.data.Dataset.from_tensors(random_pair()),
        validation_data=random_batch(5),
        callbacks=best,
        verbose=0,
    )
    loaded = keras.models.load_model(path)
    accuracy = loaded.evaluate(*random_batch(5), verbose=0, return_dict=True)
    assert accuracy["accuracy"] == history.history["val_accuracy"][0]


@pytest.mark.parametrize("name", ["gamma", "lambda_", "h", "warmup_epochs"])
@pytest.mark.parametrize("value", [np.inf, np.nan, -1])
def test_compile_refuses_wrong_numbers(name, value):
    with pytest.raises(ValueError, match=name):
        tiny_model().compile(**{name: value})


@pytest.mark.parametrize(
    "settings",
    [
        {"mean": 0.5, "std": 0.5},
        {"mean": (np.nan, 0, 0), "std": (1, 1, 1)},
        {"mean": (0, 0), "std": (1, 1)},
    ],
)
def test_wrong_normalisation_is_refused(settings):
    with pytest.raises(ValueError, match="mean and std"):
        tiny_model(**settings)
