import keras
import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.fit.model import AdvRushFitModel
from advrush_tf.fit.objectives import Standard
from advrush_tf.landscape.meter import (
    CurvatureMeter,
    CurvatureMetric,
    measure_curvature,
)
from support.small_networks import tiny_batch, tiny_network
from support.tiny_search import random_batch, random_pair, tiny_compiled

NAMES = ("top_eigenvalue", "trace", "penalty", "gradient_norm")
KEYS = [f"curvature_{name}" for name in NAMES]
SETTINGS = {"lanczos_steps": 2, "batch_size": 4, "seed": 2}


def _plain_classifier():
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Conv2D(3, 3, activation="tanh"),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, metrics=["accuracy"])
    return model


class Spy(keras.callbacks.Callback):
    """Measures after each epoch for itself."""

    def __init__(self, x, y):
        super().__init__()
        self.images, self.means = (x, y), []

    def on_epoch_end(self, epoch, logs=None):
        self.means.append(_means(self.model, *self.images))


def _means(model, x, y):
    found = measure_curvature(model, x, y, top=1, **SETTINGS)
    values = found.eigenvalues[:, 0], found.traces, found.penalties
    return [float(np.mean(v)) for v in (*values, found.gradient_norms)]


def _fit(model, callbacks, data=None, epochs=2):
    x, y = data or tiny_batch(1)
    settings = {"batch_size": len(x), "epochs": epochs, "verbose": 0}
    return model.fit(x, y, callbacks=callbacks, **settings).history


def test_the_history_holds_the_means_after_each_epoch():
    images, model = tiny_batch(size=6), _plain_classifier()
    spy = Spy(*images)
    history = _fit(model, [CurvatureMetric(*images, **SETTINGS), spy])
    found = np.transpose([history[key] for key in KEYS])
    np.testing.assert_allclose(found, spy.means, rtol=1e-4)
    assert (found[0] != found[1]).all()


def test_a_fit_is_the_same_with_it_and_without():
    def fit(*callbacks):
        model = _plain_classifier()
        history = _fit(model, list(callbacks))
        return {k: v for k, v in history.items() if k not in KEYS}, model.get_weights()

    history, weights = fit(CurvatureMetric(*tiny_batch(size=3), **SETTINGS))
    plain_history, plain_weights = fit()
    assert history == plain_history
    for with_it, without in zip(weights, plain_weights, strict=True):
        np.testing.assert_array_equal(with_it, without)


def test_the_model_is_compiled_once(monkeypatch):
    made = []
    measure = CurvatureMeter.measure

    def spied(self, x, y):
        result = measure(self, x, y)
        made.append(self._product.experimental_get_tracing_count())
        return result

    monkeypatch.setattr(CurvatureMeter, "measure", spied)
    metric = CurvatureMetric(*tiny_batch(size=6), **SETTINGS)
    _fit(_plain_classifier(), [metric], epochs=3)
    assert made == [1, 1, 1]


def test_callbacks_after_it_see_its_values_and_other_epochs_none(tmp_path):
    path = tmp_path / "log.csv"
    metric = CurvatureMetric(*tiny_batch(size=2), every_epochs=2, **SETTINGS)
    log = keras.callbacks.CSVLogger(path)
    history = _fit(_plain_classifier(), [metric, log], epochs=4)
    rows = [line.split(",") for line in path.read_text().splitlines()]
    column = rows[0].index("curvature_trace")
    traces = [row[column] for row in rows[1:]]
    assert traces[1] == traces[3] == "NA"
    assert [float(traces[0]), float(traces[2])] == history["curvature_trace"]


@pytest.fixture
def uncompiled():
    """For our own models, whose graphs take longer to make than a few products."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.usefixtures("uncompiled")
def test_a_fit_model_is_measured_as_it_is_evaluated():
    images, network = tiny_batch(size=3), tiny_network()
    model = AdvRushFitModel(network, Standard(), ema_decay=0.9)
    model.compile()
    history = _fit(model, [CurvatureMetric(*images, **SETTINGS)], epochs=1)
    with model.averaged():
        expected = _means(network, *images)
    found = [history[key][0] for key in KEYS]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.usefixtures("uncompiled")
def test_a_search_model_is_measured_in_images_of_its_input():
    images, model = random_batch(0, 3), tiny_compiled(warmup_epochs=9)
    metric = CurvatureMetric(*images, **SETTINGS)
    pairs = tf.data.Dataset.from_tensors(random_pair())
    history = model.fit(pairs, verbose=0, callbacks=metric).history
    found = [history[key][0] for key in KEYS]
    np.testing.assert_allclose(found, _means(model, *images), rtol=1e-5)


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match="every_epochs must be 1 or more"):
        CurvatureMetric(*tiny_batch(), every_epochs=0)
    metric = CurvatureMetric(*tiny_batch(), lanczos_steps=0)
    with pytest.raises(ValueError, match="lanczos_steps must be 1 or more"):
        _fit(_plain_classifier(), [metric])
