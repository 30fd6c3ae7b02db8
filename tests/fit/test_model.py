import keras
import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.attacks.pgd import SignAscent, Start
from advrush_tf.fit.model import AdvRushFitModel
from advrush_tf.fit.objectives import PGD, TRADES, Standard
from advrush_tf.losses import cross_entropy
from advrush_tf.official import weights as official
from advrush_tf.training.optimizers import MomentumSGD
from support import golden
from support.processes import run_in_a_process
from support.small_networks import golden_network, tiny_batch, tiny_network

FAST = PGD(epsilon=0.1, step_size=0.05, steps=2)


def model_of(network, objective, optimizer=None, **settings):
    model = AdvRushFitModel(network, objective, **settings)
    model.compile(optimizer, run_eagerly=True)
    return model


def batches(steps=2, size=6):
    return [tiny_batch(seed, size) for seed in range(steps)]


def run_steps(model, steps=2):
    for x, y in batches(steps):
        model.train_on_batch(x, y)


def values(variables):
    return [np.asarray(variable) for variable in variables]


def assert_close(first, second, rtol=1e-9):
    for a, b in zip(values(first), values(second), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_standard_is_plain_keras_training_step_for_step(label_smoothing):
    ours = model_of(
        tiny_network(dtype="float64"), Standard(label_smoothing=label_smoothing)
    )
    plain = tiny_network(dtype="float64")
    plain.compile(
        MomentumSGD(),
        keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=label_smoothing, dtype="float64"
        ),
        metrics=["accuracy"],
        run_eagerly=True,
    )
    assert_close(ours.network.weights, plain.weights, 0)
    for x, y in batches(3):
        got = ours.train_on_batch(x, y, return_dict=True)
        expected = plain.train_on_batch(x, np.eye(3)[y], return_dict=True)
        np.testing.assert_allclose(got["loss"], expected["loss"], rtol=1e-6)
        np.testing.assert_allclose(got["accuracy"], expected["accuracy"], rtol=1e-6)
        assert_close(ours.network.weights, plain.weights)


def gradients(network, losses_fn):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(losses_fn())
    return tape.gradient(loss, network.trainable_variables)


@pytest.mark.parametrize("objective", [FAST, TRADES(0.1, 0.1, 0.05, 2)])
def test_an_adversarial_step_written_out(objective):
    ours = model_of(tiny_network(dtype="float64"), objective, seed=3)
    network, optimizer = tiny_network(dtype="float64"), MomentumSGD()
    optimizer.build(network.trainable_variables)

    def model_fn(x, training):
        return network(x, training=training)

    for step, (x, y) in enumerate(batches(2)):
        ours.train_on_batch(x, y)
        crafted = objective.craft(model_fn, tf.constant(x), y, (3, step))
        assert np.abs(crafted - x).max() > 0.05

        def losses(x=x, y=y, crafted=crafted):
            clean = model_fn(x, True) if objective.needs_clean else None
            return objective.losses(y, clean, model_fn(crafted, True))

        optimizer.apply(gradients(network, losses), network.trainable_variables)
        assert_close(ours.network.weights, network.weights)


@pytest.mark.parametrize("objective", [Standard(), FAST])
def test_weight_perturbation_written_out(objective):
    ours = model_of(tiny_network(dtype="float64"), objective, awp_gamma=0.1)
    network, optimizer = tiny_network(dtype="float64"), MomentumSGD()
    weights = network.trainable_variables
    optimizer.build(weights)
    (x, y), *_ = batches()
    attacked = objective.craft(
        lambda images, training: network(images, training=training), x, y, (0, 0)
    )

    def losses():
        return cross_entropy(y, network(attacked, training=True))

    before = network.get_weights()
    upwards = gradients(network, losses)
    network.set_weights(before)
    for weight, gradient in zip(weights, upwards, strict=True):
        if weight.ndim > 1:
            unit = gradient.numpy() / np.linalg.norm(gradient)
            weight.assign_add(0.1 * np.linalg.norm(weight.numpy()) * unit)
    there = gradients(network, losses)
    statistics = values(network.non_trainable_variables)
    network.set_weights(before)
    optimizer.apply(there, weights)
    ours.train_on_batch(x, y)
    assert_close(ours.network.trainable_variables, weights, 1e-7)
    assert_close(ours.network.non_trainable_variables, statistics, 1e-7)


def test_the_average_is_of_the_weights_after_each_step():
    model = model_of(tiny_network(dtype="float64"), Standard(), ema_decay=0.15)
    expected = model.network.get_weights()
    for step, (x, y) in enumerate(batches(3)):
        model.train_on_batch(x, y)
        decay = min(0.15, (1 + step) / (10 + step))
        pairs = zip(expected, model.network.get_weights(), strict=True)
        expected = [decay * mean + (1 - decay) * value for mean, value in pairs]
    # The decay is a float32.
    assert_close(model.average.weights, expected, 1e-6)


def test_the_auxiliary_head_of_the_official_code():
    data = golden.load("evalnet_advrush_c4_l8_aux_s1")
    network = golden_network(data, "float64")
    official.assign_network(network, golden.group(data, "state"))

    class Spy(keras.optimizers.SGD):
        def apply(self, grads, trainable_variables=None):
            norms.append(tf.linalg.global_norm(grads))

    norms = []
    model = model_of(network, Standard(), Spy(), auxiliary_weight=0.4)
    model.check_images = lambda x: None  # The official code's are normalised.
    x = np.transpose(data["x"], (0, 2, 3, 1))
    logs = model.train_on_batch(x, data["y"], return_dict=True)
    loss = data["loss_train"] + 0.4 * data["loss_aux_train"]
    np.testing.assert_allclose(logs["loss"], loss, rtol=1e-6)
    np.testing.assert_allclose(norms, [data["grad_train_norm"]], rtol=1e-8)


def test_evaluation_and_prediction_are_with_the_averaged_weights():
    attack = SignAscent(0.1, 0.05, 3, Start.UNIFORM)
    network = tiny_network()
    model = model_of(network, Standard(), ema_decay=0.5, evaluation_attack=attack)
    run_steps(model, 3)
    x, y = tiny_batch(9, 12)
    own = network.get_weights()
    got = model.evaluate(x, y, batch_size=12, verbose=0, return_dict=True)
    for a, b in zip(own, network.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    with model.averaged():
        assert any(
            (a != b).any() for a, b in zip(own, network.get_weights(), strict=True)
        )
        crafted = attack.craft(
            lambda z: cross_entropy(y, network(z, training=False)), x, (20, 20)
        )
        logits = [network(z, training=False) for z in (x, crafted)]
    predicted = model.predict(x, batch_size=12, verbose=0)
    np.testing.assert_allclose(predicted, logits[0], rtol=1e-5, atol=1e-6)
    hits = [np.mean(np.argmax(z, -1) == y) for z in logits]
    np.testing.assert_allclose([got["accuracy"], got["robust_accuracy"]], hits)
    loss = np.mean(cross_entropy(y, logits[0]))
    np.testing.assert_allclose(got["loss"], loss, rtol=1e-5)


def test_evaluation_is_in_inference_mode():
    # In training mode, running statistics would move.
    attack = SignAscent(0.1, 0.05, 2)
    model = model_of(tiny_network(), Standard(), evaluation_attack=attack)
    before = model.network.get_weights()
    model.evaluate(*tiny_batch(), verbose=0)
    for old, new in zip(before, model.network.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)


def test_logits_that_are_not_finite_are_no_right_answer():
    x, y = tiny_batch(size=6)
    inputs = keras.Input(x.shape[1:])
    nothing = keras.layers.Flatten()(inputs) * float("nan")
    network = keras.Model(inputs, keras.layers.Dense(3)(nothing))
    attack = SignAscent(0.1, 0.05, 2)
    model = model_of(network, FAST, evaluation_attack=attack)
    got = model.evaluate(x, 0 * y, verbose=0, return_dict=True)
    assert (got["accuracy"], got["robust_accuracy"]) == (0.0, 0.0)


def test_a_sigmoid_is_warned_of_once_it_is_sure(recwarn):
    network = keras.Sequential(
        [keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(8)]
    )
    network = keras.Model(network.inputs, 9 * network.outputs[0])
    kernel = network.weights[0]
    kernel.assign(0 * kernel)
    sure = keras.Model(network.inputs, keras.ops.sigmoid(network.outputs[0]))
    model = AdvRushFitModel(sure, Standard())
    model.compile(keras.optimizers.SGD(10.0))
    x, y = np.ones((8, 2, 2, 1), "float32"), np.zeros(8, int)
    model.evaluate(x, y, verbose=0)
    assert not [w for w in recwarn if "probabilities" in str(w.message)]
    with pytest.warns(UserWarning, match="look like probabilities"):
        model.fit(x, y, batch_size=8, epochs=3, verbose=0)


def test_gradients_that_are_not_finite_are_warned_of(recwarn):
    images = keras.Input((4, 4, 1))
    # The root's slope at black pixels is infinite.
    features = keras.layers.Flatten()(keras.ops.sqrt(images))
    network = keras.Model(images, keras.layers.Dense(3)(features))
    attack = SignAscent(epsilon=0.1, step_size=0.1, steps=2, start=Start.UNIFORM)
    model = AdvRushFitModel(network, PGD(steps=1), evaluation_attack=attack)
    model.compile()
    black, grey, y = np.zeros((6, 4, 4, 1), "float32"), 0.5, np.arange(6) % 3
    for call in (model.fit, model.evaluate):
        call(black + grey, y, verbose=0)
        assert not [w for w in recwarn if "NaN or infinite" in str(w.message)]
        with pytest.warns(UserWarning, match="had NaN or infinite entries"):
            call(black, y, verbose=0)
        recwarn.clear()


def test_metrics_are_means_over_examples():
    model = model_of(tiny_network(), Standard())
    x, y = tiny_batch(0, 10)
    parts = [(x[:7], y[:7]), (x[7:], y[7:])]
    pieces = tf.data.Dataset.from_generator(
        lambda: iter(parts),
        output_signature=(
            tf.TensorSpec((None, 8, 8, 1), tf.float32),
            tf.TensorSpec((None,), tf.int32),
        ),
    )
    got = model.evaluate(pieces, verbose=0, return_dict=True)
    whole = model.evaluate(x, y, batch_size=10, verbose=0, return_dict=True)
    for name, value in whole.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-5)


def test_paths_drop_more_from_epoch_to_epoch():
    network = tiny_network(drop_path=0.4)
    model, rates = model_of(network, Standard()), []
    spy = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: rates.append(float(network.drop_path_rate))
    )
    x, y = tiny_batch()
    model.fit(x, y, epochs=4, verbose=0, callbacks=spy)
    np.testing.assert_allclose(rates, [0.0, 0.1, 0.2, 0.3], rtol=1e-6)


def test_compiled_steps_equal_eager_ones():
    eager = model_of(tiny_network(), FAST, ema_decay=0.9, awp_gamma=0.01)
    compiled = AdvRushFitModel(tiny_network(), FAST, ema_decay=0.9, awp_gamma=0.01)
    compiled.compile()
    run_steps(eager)
    run_steps(compiled)
    assert_close(eager.variables, compiled.variables, 2e-4)


def test_a_saved_model_goes_on_in_a_new_process(tmp_path):
    def fresh():
        return model_of(tiny_network(), FAST, ema_decay=0.9, seed=5)

    model = fresh()
    run_steps(model)
    model.save(tmp_path / "fit.keras")
    program = (
        "import keras, numpy\n"
        "from support.small_networks import tiny_batch\n"
        f"model = keras.models.load_model({str(tmp_path / 'fit.keras')!r})\n"
        "assert model.objective.epsilon == 0.1\n"
        "model.train_on_batch(*tiny_batch(7))\n"
        f"numpy.savez({str(tmp_path / 'after.npz')!r}, *model.variables)\n"
    )
    run_in_a_process(program)
    model.train_on_batch(*tiny_batch(7))
    with np.load(tmp_path / "after.npz") as after:
        arrays = [after[name] for name in after.files]
    assert_close(model.variables, arrays, 1e-6)


def _dense(**settings):
    keras.utils.set_random_seed(0)
    dense = keras.layers.Dense(3, **settings)
    return keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), dense])


@pytest.mark.parametrize(
    ("given", "weighted"),
    [
        ({"sample_weight": np.array([3, 0.1, 1, 0.5, 2, 0.2])}, True),
        ({"sample_weight": np.array([[3], [0.1], [1], [0.5], [2], [0.2]])}, True),
        # Not even these weigh the accuracies: each image counts once.
        ({"class_weight": {0: 5.0, 2: 0.1}}, False),
    ],
)
def test_weights_are_those_of_plain_keras(given, weighted):
    (x, y), (xv, yv) = tiny_batch(0), tiny_batch(1)
    plain, network = _dense(), _dense()
    metrics = {"weighted_metrics" if weighted else "metrics": ["accuracy"]}
    plain.compile(
        keras.optimizers.SGD(0.1),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **metrics,
    )
    model = AdvRushFitModel(network, Standard())
    model.compile(keras.optimizers.SGD(0.1))
    settings = {"batch_size": 4, "shuffle": False, "verbose": 0}
    logs = [m.fit(x, y, **given, **settings).history for m in (model, plain)]
    for name in ("loss", "accuracy"):
        np.testing.assert_allclose(logs[0][name], logs[1][name], rtol=1e-5)
    assert_close(network.weights, plain.weights, 1e-5)
    if weighted:
        column = np.arange(6.0)[:, np.newaxis]
        evaluated = {"sample_weight": column, "verbose": 0}
        logs = [m.evaluate(xv, yv, **evaluated) for m in (model, plain)]
        np.testing.assert_allclose(*logs, rtol=1e-5)


def test_regularizers_add_to_the_loss_as_in_keras():
    (x, y), (xv, yv) = tiny_batch(0), tiny_batch(1)
    settings = {"batch_size": 3, "shuffle": False, "verbose": 0}
    plain, network = (
        _dense(kernel_regularizer="l2", bias_regularizer=keras.regularizers.L1(0.3))
        for _ in range(2)
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    plain.compile(keras.optimizers.SGD(0.1), loss)
    model = AdvRushFitModel(network, Standard())
    model.compile(keras.optimizers.SGD(0.1))
    settings |= {"sample_weight": np.arange(6.0), "validation_data": (xv, yv)}
    logs = [m.fit(x, y, epochs=2, **settings).history for m in (model, plain)]
    for name in ("loss", "val_loss"):
        np.testing.assert_allclose(logs[0][name], logs[1][name], rtol=1e-5)
    assert_close(network.weights, plain.weights, 1e-5)


def test_regularizers_of_activations_are_refused():
    with pytest.raises(ValueError, match="activity_regularizer, which would count"):
        AdvRushFitModel(_dense(activity_regularizer="l2"), Standard())


def test_validation_losses_are_weighted_and_class_weights_end_with_their_fit():
    (x, y), (xv, yv) = tiny_batch(0), tiny_batch(1)
    weights, settings = np.arange(6.0), {"verbose": 0, "validation_batch_size": 4}
    model = AdvRushFitModel(_dense(), Standard())
    model.compile(keras.optimizers.SGD(0.0))
    data = {"validation_data": (xv, yv, weights)}
    got = model.fit(x, y, class_weight={1: 3.0}, **data, **settings).history
    losses = cross_entropy(yv, model.network(xv)).numpy()
    np.testing.assert_allclose(got["val_loss"], [np.mean(weights * losses)], rtol=1e-5)
    losses = cross_entropy(y, model.network(x)).numpy()
    factors = np.where(y == 1, 3, 1)
    np.testing.assert_allclose(got["loss"], [np.mean(factors * losses)], rtol=1e-5)
    (plain,) = model.fit(x, y, verbose=0).history["loss"]
    np.testing.assert_allclose(plain, losses.mean(), rtol=1e-5)
    with pytest.raises(ValueError, match=r"names \[3\]; the classes are 0 to 2"):
        model.fit(x, y, class_weight={3: 1.0}, verbose=0)


@pytest.mark.parametrize("objective", [FAST, TRADES()])
def test_adversarial_losses_are_weighted_one_by_one(objective):
    (x, y), weights = tiny_batch(), np.array([3, 0.1, 1, 0.5, 2, 0.2])
    found = []
    for column in (weights, weights[:, np.newaxis]):
        model = model_of(_dense(), objective, keras.optimizers.SGD(0.1))
        seed = tf.constant([0, 0], tf.int64)
        losses = objective(model._logits, x, y, seed).numpy()
        logs = model.train_on_batch(x, y, sample_weight=column, return_dict=True)
        np.testing.assert_allclose(logs["loss"], np.mean(weights * losses), rtol=1e-5)
        found.append(model.network.get_weights())
    assert_close(*found, 1e-6)


def test_sorted_data_are_not_held_out_silently():
    x, _ = tiny_batch(0, 8)
    model = model_of(_dense(), Standard())
    with pytest.warns(UserWarning, match=r"one of the parts only: \[0, 1, 2\]"):
        model.fit(x, [0, 0, 0, 1, 1, 1, 2, 2], validation_split=0.25, verbose=0)


def test_a_network_without_weights_is_refused():
    network = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3)])
    with pytest.raises(ValueError, match="no weights yet"):
        AdvRushFitModel(network, Standard())


def test_a_network_in_float16_is_refused():
    with pytest.raises(ValueError, match="use mixed_bfloat16 or float32 instead"):
        AdvRushFitModel(tiny_network(dtype="mixed_float16"), Standard())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"auxiliary_weight": -1.0}, "auxiliary_weight"),
        ({"auxiliary_weight": 0.4}, "auxiliary head"),
        ({"awp_gamma": float("inf")}, "awp_gamma"),
        ({"ema_decay": 1.0}, "average"),
    ],
)
def test_wrong_arguments(settings, message):
    with pytest.raises(ValueError, match=message):
        AdvRushFitModel(tiny_network(), Standard(), **settings)


def test_images_of_bytes_are_refused_in_a_call():
    model = AdvRushFitModel(tiny_network(), Standard())
    with pytest.raises(ValueError, match="must be floats in"):
        model(np.zeros((1, *model.image_shape), np.uint8))
