import json
import shutil

import numpy as np
import pytest

from advrush_tf.data.dataset import load_dataset
from advrush_tf.errors import UserError
from advrush_tf.files import read_json, sha256, write_json
from advrush_tf.runs.checkpoints import CheckpointStore
from advrush_tf.runs.models import load_supernet, read_search_settings
from advrush_tf.runs.search import build_model, compile_model, draw_search
from advrush_tf.runs.search_settings import SearchSettings
from advrush_tf.runs.settings import Precision, record_settings
from advrush_tf.search.penalty import Penalty
from support.workdirs import make_search

SETTINGS = SearchSettings(
    dataset="digits",
    epochs=2,
    warmup_epochs=1,
    init_channels=2,
    num_cells=1,
    num_nodes=2,
    primitives=("none", "avg_pool_3x3", "sep_conv_3x3"),
    penalty=Penalty.SQUARED_NORM,
    precision=Precision.FLOAT64,
    seed=3,
)


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    """A folder as a search leaves it after two epochs, and the weights of both."""
    workdir, weights = tmp_path_factory.mktemp("search"), []
    model = build_model(SETTINGS, load_dataset("digits"))
    compile_model(model, SETTINGS, 10)
    record_settings(SETTINGS, workdir)
    generator = np.random.default_rng(0)
    for epoch in (1, 2):
        for variable in model.supernet.weights:
            variable.assign(generator.uniform(0.1, 1, variable.shape))
        weights.append(model.supernet.get_weights())
        CheckpointStore(workdir / "checkpoints").save(model, epoch)
    return workdir, weights


@pytest.fixture
def copy(search, tmp_path):
    return shutil.copytree(search[0], tmp_path / "copy")


def _assert_weights(model, expected):
    for value, wanted in zip(model.supernet.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(value, wanted)


def test_the_settings_come_back_as_they_were(search):
    settings = read_search_settings(search[0])
    assert settings == SETTINGS
    assert settings.penalty is Penalty.SQUARED_NORM
    assert settings.precision is Precision.FLOAT64


def test_the_supernet_comes_back_with_its_newest_weights(search):
    workdir, weights = search
    model, checksum = load_supernet(str(workdir), log=pytest.fail)
    assert checksum == sha256(workdir / "checkpoints" / "epoch_0002.npz")
    _assert_weights(model, weights[-1])
    assert model.epoch == 2
    dataset = load_dataset("digits")
    assert (model.num_classes, model.image_shape) == (10, (8, 8, 1))
    assert model.variable_dtype == "float64"
    assert model.get_config()["mean"] == dataset.mean
    assert model.get_config()["std"] == dataset.std
    assert not model.compiled


def test_a_damaged_newest_checkpoint_is_passed_over(copy, search):
    (copy / "checkpoints" / "epoch_0002.npz").write_bytes(b"PK damaged")
    lines = []
    model, checksum = load_supernet(copy, log=lines.append)
    assert checksum == sha256(copy / "checkpoints" / "epoch_0001.npz")
    _assert_weights(model, search[1][0])
    assert len(lines) == 1
    assert "epoch_0002.npz is damaged" in lines[0]


def test_a_folder_without_a_search_is_refused(tmp_path):
    for workdir in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UserError, match=r"is no search's folder.*settings\.json"):
            load_supernet(workdir)


def test_a_search_without_checkpoints_is_refused(copy):
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(UserError, match="no checkpoint yet"):
        load_supernet(copy)


def test_checkpoints_that_all_are_damaged_are_refused(copy):
    for path in (copy / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="no readable checkpoint"):
        load_supernet(copy, log=lambda line: None)


def test_checkpoints_of_another_search_are_refused(copy):
    path = copy / "settings.json"
    write_json(path, read_json(path) | {"init_channels": 3})
    with pytest.raises(UserError, match="no readable checkpoint of this search"):
        load_supernet(copy, log=lambda line: None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "JSONDecodeError"),
        ("[]", "its entries are others"),
        ("3", "TypeError"),
        ('{"dataset": "digits"}', "its entries are others"),
        (json.dumps({**SETTINGS.to_dict(), "epochs": 0}), "--epochs is 0"),
        (
            json.dumps({**SETTINGS.to_dict(), "epochs": "x"}),
            "it must be a whole number",
        ),
        (json.dumps({**SETTINGS.to_dict(), "precision": "half"}), "half"),
        (json.dumps({**SETTINGS.to_dict(), "primitives": None}), "it must be a list"),
    ],
)
def test_damaged_settings_are_refused(copy, text, words):
    (copy / "settings.json").write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        load_supernet(copy)
    assert "settings.json does not hold the settings of a search" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_history_of_a_search_is_drawn(tmp_path):
    search, lines = tmp_path / "run", []
    search.mkdir()
    make_search(search)
    draw_search(search, "mine", tmp_path / "new", lines.append)
    drawn = {path.name for path in (tmp_path / "new").glob("*.png")}
    stem = "search_mine"
    ends = ("", "_alphas_normal", "_alphas_reduce")
    assert drawn == {f"{stem}{end}.png" for end in ends}
    assert all(name in lines[0] for name in drawn)


def test_a_damaged_history_is_one_line(tmp_path):
    search = tmp_path / "run"
    search.mkdir()
    make_search(search)
    (search / "genotypes" / "epoch_0002.json").write_text("{")
    with pytest.raises(UserError, match=r"epoch_0002\.json is damaged"):
        draw_search(search, "run", tmp_path / "new", print)
