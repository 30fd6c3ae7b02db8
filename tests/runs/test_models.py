import os
import shutil
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

from advrush_tf.data.array_examples import ArrayExamples
from advrush_tf.data.dataset import ImageDataset
from advrush_tf.errors import UserError
from advrush_tf.runs import models as model_files
from advrush_tf.runs.models import load_classifier, open_classifier, save_model
from support.attacked import save_linear_model
from support.bits import flip_faults, header_bits, random_bits
from support.small_networks import tiny_batch, tiny_network


def _logits(model):
    return np.asarray(model(tiny_batch()[0], training=False))


def test_a_saved_model_is_loaded_as_it_was_and_alone_in_its_folder(tmp_path):
    net = tiny_network(provenance={"epoch": 2})
    save_model(net, tmp_path / "best.keras")
    assert os.listdir(tmp_path) == ["best.keras"]
    again = keras.models.load_model(tmp_path / "best.keras")
    np.testing.assert_array_equal(_logits(again), _logits(net))
    assert again.provenance == {"epoch": 2}


def test_a_later_model_takes_the_place_of_the_earlier(tmp_path):
    path, nets = tmp_path / "best.keras", [tiny_network(seed) for seed in (0, 1)]
    for net in nets:
        save_model(net, path)
    assert (_logits(nets[0]) != _logits(nets[1])).any()
    np.testing.assert_array_equal(
        _logits(keras.models.load_model(path)), _logits(nets[1])
    )


def _full(*_):
    raise OSError(28, "No space left on device")


def _half(source, target):
    target.write(source.read(100))
    _full()


@pytest.mark.parametrize(
    ("where", "name", "failing"),
    [
        (os, "fsync", _full),
        (shutil, "copyfileobj", _half),
        (keras.Model, "save", _full),
    ],
    ids=["at the end", "half way", "in Keras"],
)
def test_a_failed_write_leaves_the_earlier_file(
    tmp_path, monkeypatch, where, name, failing
):
    path = tmp_path / "best.keras"
    save_model(tiny_network(), path)
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(where, name, failing)
        with pytest.raises(OSError, match="No space left"):
            save_model(tiny_network(1), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["best.keras"]


def test_flipped_bits_of_a_model_are_noticed_or_harmless(tmp_path):
    path = save_linear_model(tmp_path / "model.keras", images=1)
    bits = [*header_bits(path)[::120], *random_bits(path, 20)]
    faults = flip_faults(path, lambda path: load_classifier(path).get_weights(), bits)
    assert not list(filter(None, faults))


def test_the_temporary_folder_goes_in_any_case(tmp_path, monkeypatch):
    monkeypatch.setattr(model_files.tempfile, "tempdir", str(tmp_path))
    save_model(tiny_network(), tmp_path / "a.keras")
    with pytest.raises(OSError, match="missing"):
        save_model(tiny_network(), tmp_path / "missing" / "a.keras")
    assert os.listdir(tmp_path) == ["a.keras"]


def _plain(*layers):
    return keras.Sequential([keras.Input((2, 2, 1)), *layers])


class Unregistered(keras.layers.Layer):
    def call(self, x):
        return x


def test_any_keras_model_is_loaded(tmp_path):
    model = _plain(keras.layers.Flatten(), keras.layers.Dense(3))
    model.save(tmp_path / "model.keras")
    again = load_classifier(tmp_path / "model.keras")
    x = np.random.default_rng(0).random((4, 2, 2, 1), np.float32)
    np.testing.assert_array_equal(again(x), model(x))


def test_what_is_no_model_or_holds_code_is_one_clear_line(tmp_path):
    _plain(keras.layers.Lambda(lambda x: x + 1)).save(tmp_path / "lambda.keras")
    _plain(Unregistered()).save(tmp_path / "class.keras")
    whole = (tmp_path / "class.keras").read_bytes()
    # The end of a zip file, where its table is, but not its beginning.
    (tmp_path / "cut.keras").write_bytes(whole[len(whole) // 2 :])
    (tmp_path / "text.keras").write_text("no model")
    (tmp_path / "folder.keras").mkdir()
    (tmp_path / "exported.keras").mkdir()
    (tmp_path / "exported.keras" / "saved_model.pb").touch()
    (tmp_path / "only.weights.h5").touch()
    (tmp_path / "old.keras").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99))
    with zipfile.ZipFile(tmp_path / "other.keras", "w") as file:
        file.writestr("readme", "hello")
    for name, words in {
        "none": "There is no model file",
        "folder": "is a folder; give a .keras file, such as the model.keras",
        "exported": "as of a SavedModel.* as a .keras file, or .*serve to a",
        "old": "HDF5 file.* keras.models.load_model and save it as a .keras",
        "only.weights.h5": "holds weights without their model; .* load_weights",
        "text": "damaged or not a .keras file",
        "other": "cannot be loaded",
        "cut": "cannot be loaded",
        "lambda": "Lambda",
        "class": "Could not locate class .Unregistered",
    }.items():
        path = tmp_path / (name if "." in name else f"{name}.keras")
        with pytest.raises(UserError, match=words) as error:
            load_classifier(path)
        assert "\n" not in str(error.value)


def test_a_model_with_two_outputs_gets_the_advice_to_take_one():
    images = keras.Input((2, 2, 1))
    logits = keras.layers.Dense(3)(keras.layers.Flatten()(images))
    model = keras.Model(images, [logits, logits])
    examples = ArrayExamples(np.zeros((1, 2, 2, 1), np.uint8), [0])
    dataset = ImageDataset("shades", examples, examples, 3, ())
    with pytest.raises(UserError, match=r"m.keras: the model has 2 outputs: take .*0"):
        open_classifier(model, Path("m.keras"), dataset, 1)
    one = keras.Model(model.inputs, model.outputs[0])
    assert open_classifier(one, Path("m.keras"), dataset, 1).num_classes == 3


def test_images_of_another_size_than_the_network_was_made_for_are_refused():
    net = tiny_network()
    shape = net.image_shape

    def dataset(*sides):
        examples = ArrayExamples(np.zeros((1, *sides), np.uint8), np.zeros(1, int))
        return ImageDataset("shades", examples, examples, net.num_classes, ())

    assert open_classifier(net, Path("m.keras"), dataset(*shape), 1).model is net
    larger = dataset(2 * shape[0], 2 * shape[1], shape[2])
    with pytest.raises(UserError, match=r"it was made for .* --image_size that") as e:
        open_classifier(net, Path("m.keras"), larger, 1)
    assert "\n" not in str(e.value)
