import lzma
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

from advrush_tf.errors import UserError
from advrush_tf.genotypes.genotype import get_genotype
from advrush_tf.nn.cell_network import CellNetwork, Stem
from advrush_tf.official.checkpoint import read_checkpoint
from advrush_tf.official.weights import assign_supernet
from advrush_tf.runs import convert as conversion
from advrush_tf.runs.convert import Architecture, Normalise, convert
from advrush_tf.search.model import AdvRushSearchModel
from support import golden

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "testdata" / "checkpoints"
EVALUATION = FOLDER / "evaluation.pth.tar"
WEIGHTS = FOLDER / "weights.pt"
RENAMED = "cells.3._ops.1.op.1.weight"


def _convert(tmp_path, checkpoint, genotype=None, **settings):
    lines: list[str] = []
    output = tmp_path / "model.keras"
    model = convert(checkpoint, output, genotype, log=lines.append, **settings)
    return model, output, "\n".join(lines)


def _logits(output, x):
    return keras.models.load_model(output)(x, training=False).numpy()


@pytest.mark.parametrize(
    ("path", "name", "case", "size"),
    [
        (EVALUATION, "ADVRUSH", "evalnet_advrush_c4_l5_s1", 32),
        (WEIGHTS, "DARTS_V2", "evalnet_darts_v2_c4_l5_s1", 16),
    ],
)
def test_evaluation_network_gives_the_official_logits(tmp_path, path, name, case, size):
    data = golden.load(case)
    model, output, report = _convert(tmp_path, path, name, image_size=size)
    assert isinstance(model, CellNetwork)
    assert model.genotype == get_genotype(name)
    x = np.transpose(data["x"], (0, 2, 3, 1)).astype(np.float32)
    logits = _logits(output, x)
    np.testing.assert_array_equal(logits, model(x, training=False))
    assert np.abs(logits - data["logits_eval_initial"]).max() < 1e-4
    assert "4 channels, 5 cells, 10 classes" in report
    assert "does not normalise" in report
    assert str(output) in report


@pytest.fixture(scope="module")
def search_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("search") / "checkpoint-epoch0.pth.tar"
    path.write_bytes(lzma.decompress((FOLDER / "search.pth.tar.xz").read_bytes()))
    return path


def test_a_network_with_rectangular_convolutions_is_converted(tmp_path, monkeypatch):
    data = golden.load("evalnet_amoebanet_c2_l3_s2")
    state = golden.group(data, "state")
    monkeypatch.setattr(conversion, "read_checkpoint", lambda path: state)
    model, output, _ = _convert(tmp_path, EVALUATION, "AmoebaNet", image_size=16)
    assert model.genotype == get_genotype("AmoebaNet")
    x = np.transpose(data["x"], (0, 2, 3, 1))
    logits = _logits(output, x)
    np.testing.assert_allclose(logits, data["logits_eval_initial"], atol=1e-5)


def test_supernet_has_every_number_and_gives_the_official_logits(tmp_path, search_file):
    data = golden.load("trajectory_c2_l5_s1")
    model, output, report = _convert(tmp_path, search_file)
    assert isinstance(model, AdvRushSearchModel)
    assert model.image_shape == (32, 32, 3)
    assert "normalises as for cifar10" in report
    assert "search supernet, 2 channels, 5 cells, 10 classes" in report
    assert "model.genotype()" in report
    # The recorded images are normalised.
    x = np.transpose(data["x_weight"][0], (0, 2, 3, 1)).astype(np.float32)
    logits = keras.models.load_model(output).supernet(x, training=True)
    assert np.abs(logits - data["A/logits_w"][0]).max() < 1e-4
    kind = Architecture.of(golden.group(data, "state"))
    assert conversion._resolve(Normalise.NONE, kind) is Normalise.NONE
    expected = AdvRushSearchModel(10, (32, 32, 3), 2, 5)
    tables = {f"alphas_{c}": data[f"A/alphas_{c}"][0] for c in ("normal", "reduce")}
    assign_supernet(expected, {**golden.group(data, "state"), **tables})
    for ours, theirs in zip(model.weights, expected.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (
            "evalnet_imagenet_advrush_c8_l5_s1",
            Architecture(False, Stem.IMAGENET, 3, 8, 5, 10, False),
        ),
        (
            "evalnet_advrush_c4_l8_aux_s1",
            Architecture(False, Stem.CIFAR, 3, 4, 8, 10, True),
        ),
        ("supernet_c4_l5_s1", Architecture(True, Stem.CIFAR, 3, 4, 5, 10, False)),
    ],
)
def test_architecture_is_deduced(case, expected):
    assert Architecture.of(golden.group(golden.load(case), "state")) == expected


def test_an_imagenet_network_with_its_head(tmp_path, monkeypatch):
    state = golden.group(golden.load("evalnet_imagenet_advrush_c8_l5_s1"), "state")
    monkeypatch.setattr(conversion, "read_checkpoint", lambda path: state)
    model, _, report = _convert(tmp_path, "file.pth.tar", "ADVRUSH")
    assert model.image_shape == (224, 224, 3)
    assert "normalises as for imagenet" in report
    assert "the imagenet stem" in report


def _failure(tmp_path, *arguments, **settings):
    with pytest.raises(UserError) as caught:
        _convert(tmp_path, *arguments, **settings)
    assert not list(tmp_path.glob("*.keras"))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop(RENAMED), f"'{RENAMED}' is missing"),
        (lambda s: s.update({"cells.1.x": s[RENAMED]}), "'cells.1.x' has no place"),
        (lambda s: s.update({RENAMED: s[RENAMED][1:]}), f"'{RENAMED}' has shape"),
        (lambda s: s.pop("stem.0.weight"), "'stem.0.weight' is missing"),
        (lambda s: s.pop("classifier.weight"), "'classifier.weight' is missing"),
        (
            lambda s: s.update({"stem.0.weight": s["stem.0.weight"][1:]}),
            "'stem.0.weight' has 11 filters",
        ),
        (
            lambda s: s.update({"classifier.weight": np.zeros(3)}),
            "'classifier.weight' has shape (3,)",
        ),
        (
            lambda s: s.update({"classifier.weight": np.zeros((1, 3))}),
            "num_classes must be 2 or more",
        ),
    ],
)
def test_the_first_mismatch_is_named(tmp_path, monkeypatch, change, words):
    state = dict(read_checkpoint(EVALUATION))
    change(state)
    monkeypatch.setattr(conversion, "read_checkpoint", lambda path: state)
    assert words in _failure(tmp_path, "file.pth.tar", "ADVRUSH")


def test_a_wrong_genotype_is_named_with_the_first_mismatch(tmp_path):
    message = _failure(tmp_path, EVALUATION, "PDARTS")
    assert "--genotype=PDARTS" in message
    assert "entry 'cells.0._ops.6.op.1.weight' is missing" in message


def test_a_supernet_takes_no_genotype(tmp_path, search_file):
    assert "leave --genotype out" in _failure(tmp_path, search_file, "ADVRUSH")


def test_a_supernet_needs_its_alphas(tmp_path, monkeypatch, search_file):
    state = dict(read_checkpoint(search_file))
    del state["alphas_reduce"]
    monkeypatch.setattr(conversion, "read_checkpoint", lambda path: state)
    message = _failure(tmp_path, "weights.pt")
    assert "entry 'alphas_reduce' is missing" in message
    assert "checkpoint-epoch" in message


@pytest.mark.parametrize(
    ("arguments", "settings", "words"),
    [
        ((EVALUATION,), {}, "--genotype is missing"),
        ((EVALUATION, "NOTHING"), {}, "--genotype=NOTHING"),
        ((EVALUATION, "ADVRUSH"), {"image_size": 4}, "at least 8x8"),
        (("none.pth.tar", "ADVRUSH"), {}, "No such file"),
        ((FOLDER, "ADVRUSH"), {}, "Is a directory"),
        ((FOLDER / "kinds_old.pt", "ADVRUSH"), {}, "'stem.0.weight' is missing"),
        ((Path(__file__), "ADVRUSH"), {}, "does not begin as"),
    ],
)
def test_what_the_user_can_mend(tmp_path, arguments, settings, words):
    assert words in _failure(tmp_path, *arguments, **settings)


@pytest.mark.parametrize(
    ("name", "words"),
    [("model.h5", "end in .keras"), ("no/model.keras", "not a folder")],
)
def test_the_output_is_checked_first(tmp_path, name, words):
    with pytest.raises(UserError, match=words):
        convert("none.pth.tar", tmp_path / name, "ADVRUSH")


def test_a_full_disk_leaves_the_earlier_file(tmp_path, monkeypatch):
    (tmp_path / "model.keras").write_text("earlier")

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(UserError, match="No space left"):
        _convert(tmp_path, EVALUATION, "ADVRUSH")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["earlier"]
