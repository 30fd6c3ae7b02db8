import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import advrush_tf
from advrush_tf import inputs
from advrush_tf.attacks import FAB
from advrush_tf.attacks.cleverhans import FGSM
from advrush_tf.attacks.pgd import SignAscent
from advrush_tf.landscape import loss_cut, loss_surface
from support.small_networks import tiny_batch, tiny_network

CLASSES = 3
LABELS = [2, 0, 1]


@pytest.fixture(scope="module")
def models():
    keras.utils.set_random_seed(0)
    logits = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(CLASSES)]
    )
    search = advrush_tf.AdvRushSearchModel(
        *(CLASSES, (8, 8, 1), 2, 1), num_nodes=1, primitives=("none", "avg_pool_3x3")
    )
    search.compile()
    return logits, search


def _fitted(network, objective=None):
    attack = SignAscent(0.1, 0.1, 1)
    model = advrush_tf.AdvRushFitModel(
        network, objective or advrush_tf.Standard(), evaluation_attack=attack
    )
    model.compile(keras.optimizers.SGD(0.0))
    return model


def _batches(x, y):
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(3)


def _validated(network, x, y):
    right = tiny_batch()
    model = _fitted(network)
    return model.fit(*right, validation_data=(x, y), verbose=0).history["val_loss"]


def _pairs(search, x, y):
    pairs = tf.data.Dataset.zip(_batches(x, y), _batches(x, y))
    return search.fit(pairs, verbose=0)


# Of (classifier, images, labels).
TAKERS = {
    "craft": lambda m, x, y: FGSM().craft(m, x, y),
    "AutoAttack": lambda m, x, y: advrush_tf.AutoAttack(m).run(x, y),
    "FAB.minimal": lambda m, x, y: FAB().minimal(m, x, y),
    "objective": lambda m, x, y: advrush_tf.TRADES()(
        lambda z, training: m(z, training=training), x, y
    ),
    "curvature_penalty": functools.partial(advrush_tf.curvature_penalty, h=0.37),
    "hessian_vector_product": lambda m, x, y: advrush_tf.hessian_vector_product(
        m, x, y, tf.ones((6, 8, 8, 1))
    ),
    "measure_curvature": lambda m, x, y: (
        advrush_tf.measure_curvature(
            m, x, y, batch_size=6, top=1, lanczos_steps=1
        ).penalties
    ),
    "loss_surface": lambda m, x, y: loss_surface(m, x, y, 0.1, 3).losses,
    "loss_cut": lambda m, x, y: loss_cut(m, x, y, 0.1, 4).losses,
    "fit": lambda m, x, y: _fitted(m).fit(x, y, verbose=0).history["loss"],
    "fit of batches": lambda m, x, y: _fitted(m).fit(_batches(x, y), verbose=0),
    "validation": _validated,
    "evaluate": lambda m, x, y: _fitted(m).evaluate(x, y, verbose=0),
    "evaluate of batches": lambda m, x, y: _fitted(m).evaluate(
        _batches(x, y), verbose=0
    ),
    "train_on_batch": lambda m, x, y: _fitted(m).train_on_batch(x, y),
    "test_on_batch": lambda m, x, y: _fitted(m).test_on_batch(x, y),
}
# Of (search model, images, labels).
SEARCHED = {
    "search": _pairs,
    "search's evaluate": lambda s, x, y: s.evaluate(x, y, verbose=0),
}
PREDICTED = {
    "predict": lambda m, s, x: _fitted(m).predict(x, verbose=0),
    "predict of batches": lambda m, s, x: _fitted(m).predict(
        tf.data.Dataset.from_tensor_slices(x).batch(3), verbose=0
    ),
    "predict_on_batch": lambda m, s, x: _fitted(m).predict_on_batch(x),
    "search's predict": lambda m, s, x: s.predict(x, verbose=0),
    "network's predict": lambda m, s, x: tiny_network().predict(x, verbose=0),
}


def _calls(models, x, y):
    classifier, search = models
    for name, call in TAKERS.items():
        yield name, lambda call=call: call(classifier, x, y)
    for name, call in SEARCHED.items():
        yield name, lambda call=call: call(search, x, y)


def _not_refused(calls, message):
    """The names of the calls that do not refuse what they are given."""
    accepted = []
    for name, call in calls:
        try:
            call()
        except ValueError as error:
            if message in str(error) and "\n" not in str(error):
                continue
        except Exception as error:
            name = f"{name}: {error!r}"
        accepted.append(name)
    return accepted


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: np.round(255 * x).astype(np.uint8), "floats in [0, 1], not uint8"),
        (lambda x: (255 * x).astype(np.float32), "in [0, 1]; these are in [0."),
        (lambda x: tf.constant(255 * x), "in [0, 1]; these are in [0."),
        (lambda x: 2 * x - 1, "in [0, 1]; these are in [-0.9"),
        (lambda x: np.where(x > 0.9, np.float32(np.nan), x), "in [nan, nan]"),
    ],
)
def test_images_of_another_range_or_type_are_refused_everywhere(
    models, change, message
):
    x, y = tiny_batch()
    x = change(x)
    predictions = [
        (name, lambda call=call: call(*models, x)) for name, call in PREDICTED.items()
    ]
    assert _not_refused([*_calls(models, x, y), *predictions], message) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([-1, 1, 2, 0, 0, 1], "must be whole numbers from 0"),
        ([3, 1, 2, 0, 0, 1], "must be whole numbers from 0 to 2; not [3]"),
        ([0.5, 1, 2, 0, 0, 1], "not [0.5]"),
        ([np.nan, 1, 2, 0, 0, 1], "not [nan]"),
        (np.eye(4)[[0, 1, 2, 3, 0, 1]], "or one-hot (images, 3)"),
        (np.full((6, 3), 1 / 3), "a single 1 in each row"),
    ],
)
def test_wrong_labels_are_refused_everywhere(models, wrong, message):
    x, _ = tiny_batch()
    calls = _calls(models, x, np.asarray(wrong))
    assert _not_refused(calls, message) == []


@pytest.mark.parametrize("count", [1, 5])
def test_too_few_labels_are_refused(models, count):
    x, y = tiny_batch()
    # Keras counts what it cuts into batches itself.
    names = ["craft", "objective", "curvature_penalty", "hessian_vector_product"]
    names += ["measure_curvature", "loss_surface", "train_on_batch", "test_on_batch"]
    calls = [(n, lambda n=n: TAKERS[n](models[0], x, y[:count])) for n in names]
    message = f"6 images need as many labels, not {count}"
    assert _not_refused(calls, message) == []


FORMS = {
    "list": lambda y: y.tolist(),
    "column": lambda y: y[:, np.newaxis],
    "uint8": lambda y: y.astype(np.uint8),
    "floats": lambda y: y.astype(np.float32),
    "one-hot": lambda y: np.eye(CLASSES, dtype=np.float32)[y],
}


@pytest.mark.parametrize(
    "name",
    [
        *("craft", "objective", "curvature_penalty", "hessian_vector_product"),
        *("fit", "train_on_batch", "evaluate", "validation"),
    ],
)
def test_labels_mean_the_same_in_every_form(models, name):
    x, y = tiny_batch()
    expected = TAKERS[name](models[0], x, y)
    for form, change in FORMS.items():
        found = TAKERS[name](models[0], x, change(y))
        np.testing.assert_array_equal(found, expected, form)


@pytest.mark.parametrize("form", FORMS)
def test_the_batches_of_a_search_take_labels_of_every_form(form):
    x, y = np.zeros((12, 2, 2, 1), np.uint8), np.arange(12) % 3
    (_, found), _ = next(iter(advrush_tf.bilevel_pairs(x, FORMS[form](y), 6)[0]))
    assert found.dtype == tf.int32
    assert np.bincount(found).tolist() == [2, 2, 2]


@pytest.mark.parametrize("wrong", [-1, 0.5])
def test_the_batches_of_a_search_refuse_wrong_labels(wrong):
    images = np.zeros((4, 2, 2, 1), np.uint8)
    with pytest.raises(ValueError, match=rf"labels must be .* not \[{wrong}\]"):
        advrush_tf.bilevel_pairs(images, [0, wrong, 0, 1], 2)
    with pytest.raises(ValueError, match=r"must be in \[0, 1\]; these are in \[9"):
        advrush_tf.bilevel_pairs(images + np.float32(9), [0, 1, 0, 1], 2)
    # Nearly black if taken for 8-bit ones.
    for dtype in (int, np.uint8):
        with pytest.raises(ValueError, match="these are 0 and 1 only; give floats"):
            advrush_tf.bilevel_pairs(images.astype(dtype) + dtype(1), [0, 1, 0, 1], 2)


def test_probabilities_are_refused_or_warned_of(models):
    x, y = tiny_batch()
    softmax = keras.Sequential([models[0], keras.layers.Softmax()])
    warned = {"craft", "fit", "evaluate", "train_on_batch", "test_on_batch"}
    refused = {"curvature_penalty", "hessian_vector_product", "measure_curvature"}
    refused |= {"loss_surface", "loss_cut"}
    for name in warned:
        with pytest.warns(UserWarning, match="look like probabilities"):
            TAKERS[name](softmax, x, y)
    calls = [(name, lambda call=TAKERS[name]: call(softmax, x, y)) for name in refused]
    assert _not_refused(calls, "must give logits, not probabilities") == []


def test_a_graph_refuses_when_it_runs(models):
    x, y = tiny_batch()
    penalties = tf.function(
        lambda x, y: advrush_tf.curvature_penalty(models[0], x, y, 1.5)
    )
    penalties(x, y)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"must be in \[0, 1\]"):
        penalties(255 * x, y)
    with pytest.raises(tf.errors.InvalidArgumentError, match="from 0 to 2"):
        penalties(x, y + 1)


def test_a_function_of_other_units_may_have_them(models):
    x, y = tiny_batch()
    expected = advrush_tf.curvature_penalty(models[0], x, y, h=0.1)
    found = advrush_tf.curvature_penalty(
        lambda z: models[0](z / 255), 255 * x, y, h=25.5
    )
    np.testing.assert_allclose(255 * found, expected, rtol=1e-3)
    with pytest.raises(ValueError, match=r"images must be finite; .*: 1;"):
        bad = x.copy()
        bad[0, 0, 0] = np.inf
        advrush_tf.curvature_penalty(lambda z: models[0](z), bad, y, 1.5)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones((4, 2)), r"shape \(4,\) or \(4, 1\), not \(4, 2\)"),
        (np.ones(1), r"not \(1,\)"),
        ([1, 1, np.nan, 1], r"must be finite; not \[nan\]"),
    ],
)
def test_wrong_weights_of_examples_are_refused(weights, message):
    inputs.check_weights(np.ones((4, 1), int), 4)
    with pytest.raises(ValueError, match=message):
        inputs.check_weights(weights, 4)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "int64", "uint16"])
@pytest.mark.parametrize("kind", [np.array, tf.constant, tf.Variable])
@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_labels_of_any_integer_type_and_from_a_column(dtype, kind, shape):
    y = inputs.as_labels(kind(np.array(LABELS, dtype).reshape(shape)))
    assert y.dtype == tf.int32
    np.testing.assert_array_equal(y, LABELS)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_whole_numbers_are_labels_whatever_their_type(dtype):
    y = inputs.as_labels(np.array(LABELS, dtype))
    assert y.dtype == tf.int32
    np.testing.assert_array_equal(y, LABELS)


@pytest.mark.parametrize("run", [inputs.as_labels, tf.function(inputs.as_labels)])
@pytest.mark.parametrize("wrong", [0.5, 1.999, -0.25, np.nan])
def test_fractions_are_no_labels(run, wrong):
    with pytest.raises(
        (ValueError, tf.errors.InvalidArgumentError), match="whole numbers"
    ):
        run(tf.constant([0.0, wrong, 1.0]))


def test_labels_as_they_come_in_a_graph():
    assert inputs.as_labels(LABELS).shape == (3,)
    # Of one image, too: a column is known by its rank.
    assert inputs.as_labels([[2]]).shape == (1,)
    for shape in ((None,), (None, 1)):
        traced = tf.function(inputs.as_labels).get_concrete_function(
            tf.TensorSpec(shape, tf.int64)
        )
        assert traced.structured_outputs.shape.as_list() == [None]
        column = tf.reshape(tf.constant(LABELS, tf.int64), [3, 1][: len(shape)])
        np.testing.assert_array_equal(traced(column), LABELS)
