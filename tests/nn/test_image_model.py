import keras
import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.nn.resnet import ResNet18
from support.small_networks import tiny_batch, tiny_network
from support.tiny_search import random_batch, tiny_model

MAKE = {
    "network": (tiny_network, tiny_batch),
    "resnet": (lambda: ResNet18(3, (8, 8, 1), 2), tiny_batch),
    "search": (tiny_model, random_batch),
}


@pytest.mark.parametrize("loaded", [False, True], ids=["made", "loaded"])
@pytest.mark.parametrize("kind", MAKE)
def test_models_that_were_never_called_are_exported(tmp_path, kind, loaded):
    make, batch = MAKE[kind]
    model, (x, _) = make(), batch()
    if loaded:
        model.save(tmp_path / "model.keras")
        model = keras.models.load_model(tmp_path / "model.keras")
    model.export(tmp_path / "exported", verbose=False)
    exported = tf.saved_model.load(tmp_path / "exported")
    assert exported.serve(x).shape == (6, 3)
    np.testing.assert_allclose(
        exported.serve(x[:2]), model(x[:2]), rtol=1e-4, atol=1e-6
    )


def test_a_network_becomes_a_tflite_file(tmp_path):
    model, (x, _) = tiny_network(), tiny_batch()
    path = tmp_path / "model.tflite"
    model.export(path, format="litert", verbose=False)
    interpreter = tf.lite.Interpreter(str(path))
    (image,), (logits,) = (
        interpreter.get_input_details(),
        interpreter.get_output_details(),
    )
    interpreter.resize_tensor_input(image["index"], x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(image["index"], x)
    interpreter.invoke()
    found = interpreter.get_tensor(logits["index"])
    np.testing.assert_allclose(found, model(x), rtol=1e-4, atol=1e-5)
