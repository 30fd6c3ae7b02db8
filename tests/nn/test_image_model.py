import keras
import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.nn.cell_network import CellNetwork
from support.small_networks import tiny_batch
from support.tiny_search import random_batch, tiny_model


def _network():
    cell = [("sep_conv_3x3", 0), ("max_pool_3x3", 1)]
    return CellNetwork(
        {"normal": cell, "normal_concat": [2], "reduce": cell, "reduce_concat": [2]},
        *(3, (8, 8, 1), 2, 1),
    )


def test_a_loaded_network_is_exported_before_any_call(tmp_path):
    _network().save(tmp_path / "model.keras")
    model, (x, _) = keras.models.load_model(tmp_path / "model.keras"), tiny_batch()
    _assert_exported(model, x, tmp_path)


def test_a_new_search_model_is_exported(tmp_path):
    _assert_exported(tiny_model(), random_batch(0)[0], tmp_path)


def _assert_exported(model, x, tmp_path):
    model.export(tmp_path / "exported", verbose=False)
    exported = tf.saved_model.load(tmp_path / "exported")
    assert exported.serve(x).shape == (6, 3)
    got, expected = exported.serve(x[:2]), model(x[:2], training=False)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
def test_a_network_becomes_a_tflite_file(tmp_path):
    model, (x, _) = _network(), tiny_batch()
    path = tmp_path / "model.tflite"
    model.export(path, format="litert", verbose=False)
    interpreter = tf.lite.Interpreter(str(path))
    (image,) = interpreter.get_input_details()
    (logits,) = interpreter.get_output_details()
    interpreter.resize_tensor_input(image["index"], x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(image["index"], x)
    interpreter.invoke()
    found = interpreter.get_tensor(logits["index"])
    np.testing.assert_allclose(found, model(x), rtol=1e-4, atol=1e-5)


def test_a_network_is_a_keras_model_that_refuses_other_images():
    model, (x, y) = _network(), tiny_batch()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = model.evaluate(x, y, verbose=0)
    model.fit(x, y, batch_size=4, epochs=3, verbose=0)  # The last batch is smaller.
    assert model.evaluate(x, y, verbose=0) != before
    for method in ("fit", "evaluate", "train_on_batch", "test_on_batch"):
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"must be in \[0"):
            getattr(model, method)(255 * x, y)
