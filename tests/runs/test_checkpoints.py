import os

import keras
import numpy as np
import pytest

from advrush_tf.errors import UserError
from advrush_tf.files import read_arrays, write_arrays
from advrush_tf.runs.checkpoints import CheckpointStore
from advrush_tf.runs.search_settings import SearchSettings
from advrush_tf.search.model import AdvRushSearchModel


def _model(seed):
    keras.utils.set_random_seed(seed)
    primitives = ("none", "sep_conv_3x3")
    model = AdvRushSearchModel(3, (8, 8, 1), 2, 1, 1, primitives=primitives)
    model.compile()
    for index, variable in enumerate(model.alpha_optimizer.variables):
        variable.assign(np.full(variable.shape, seed + index))
    return model


def _state(model):
    groups = model.supernet.weights, model.optimizer.variables
    variables = [v for group in groups for v in group]
    return [np.asarray(v) for v in variables + list(model.alpha_optimizer.variables)]


def _equal(first, second):
    pairs = zip(_state(first), _state(second), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def test_everything_is_restored_and_old_ones_go(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints")
    for epoch in (1, 2, 3):
        store.save(_model(epoch), epoch, {"best": epoch})
    assert sorted(os.listdir(store.folder)) == ["epoch_0002.npz", "epoch_0003.npz"]
    model, warnings = _model(9), []
    assert not _equal(model, _model(3))
    assert store.restore(model, warnings.append) == (3, {"best": 3})
    assert _equal(model, _model(3))
    assert not warnings


def test_an_empty_folder_is_a_fresh_start(tmp_path):
    assert CheckpointStore(tmp_path / "none").restore(_model(0), pytest.fail) == (0, {})


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_a_damaged_newest_is_reported_and_skipped(tmp_path, damage):
    store = CheckpointStore(tmp_path)
    store.save(_model(1), 1)
    newest = store.save(_model(2), 2)
    content = bytearray(newest.read_bytes())
    middle = len(content) // 2
    if damage == "flip":
        # In the data of the largest array: a byte that only the checksum covers.
        with np.load(newest) as file:
            name = max(file.files, key=lambda key: file[key].nbytes)
            data = file[name].tobytes()
        content[content.index(data) + len(data) // 2] ^= 0xFF
    newest.write_bytes(
        {"truncate": content[:middle], "empty": b""}.get(damage, content)
    )
    model, warnings = _model(9), []
    assert store.restore(model, warnings.append)[0] == 1
    assert _equal(model, _model(1))
    assert len(warnings) == 1
    assert "epoch_0002.npz is damaged" in warnings[0]


def test_a_full_disk_keeps_the_earlier_checkpoint(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path)
    store.save(_model(1), 1)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.save(_model(2), 2)
    assert os.listdir(tmp_path) == ["epoch_0001.npz"]
    model = _model(9)
    assert store.restore(model, pytest.fail)[0] == 1
    assert _equal(model, _model(1))


def test_a_damaged_one_is_renamed_when_its_epoch_is_saved_again(tmp_path):
    store = CheckpointStore(tmp_path)
    store.save(_model(1), 1)
    for epoch in (2, 3):
        (tmp_path / f"epoch_000{epoch}.npz").write_bytes(b"PK damaged")
    assert store.restore(_model(1), lambda line: None)[0] == 1
    store.save(_model(2), 2)
    damaged = ["epoch_0002.npz.damaged", "epoch_0003.npz.damaged"]
    kept = ["epoch_0001.npz", "epoch_0002.npz"]
    assert sorted(os.listdir(tmp_path)) == sorted(kept + damaged)
    assert {(tmp_path / name).read_bytes() for name in damaged} == {b"PK damaged"}
    assert store.restore(_model(1), pytest.fail)[0] == 2


def test_one_of_another_run_is_passed_over(tmp_path):
    CheckpointStore(tmp_path).save(_model(1), 1)  # Of an earlier version.
    CheckpointStore(tmp_path, 3, SearchSettings()).save(_model(2), 2)
    CheckpointStore(tmp_path, 3, SearchSettings(seed=1)).save(_model(3), 3)
    warnings = []
    store = CheckpointStore(tmp_path, settings=SearchSettings())
    assert store.find(_model(9), warnings.append) == 2
    assert len(warnings) == 1
    assert "of a run where seed is 1 there and 0 here" in warnings[0]
    with pytest.raises(ValueError, match="seed is 1 there"):
        store.load(_model(9), 3)
    other = CheckpointStore(tmp_path, settings=SearchSettings(seed=2))
    assert other.find(_model(9), warnings.append) == 1


@pytest.mark.parametrize("notes", ["[" * 100_000, "[1]", "7"])
def test_notes_that_are_no_object_are_damage(tmp_path, notes):
    store = CheckpointStore(tmp_path)
    path = store.save(_model(1), 1)
    arrays = read_arrays(path) | {"notes": np.asarray(notes)}
    write_arrays(path, **arrays)
    warnings = []
    assert store.find(_model(1), warnings.append) == 0
    assert "is damaged" in warnings[0]


def test_one_that_cannot_be_read_is_not_damaged(tmp_path):
    store = CheckpointStore(tmp_path)
    store.save(_model(1), 1)
    # Opening a folder fails for every user, also for root.
    store.path(2).mkdir()
    with pytest.raises(UserError, match=r"epoch_0002\.npz cannot be read \(Is a dir"):
        store.restore(_model(1), pytest.fail)


def test_any_damaged_byte_is_reported(tmp_path):
    store = CheckpointStore(tmp_path)
    path = store.save(_model(1), 1)
    content, model = path.read_bytes(), _model(9)
    # The archive's own records: names, sizes, versions and flags.
    directory = content.index(b"PK\x01\x02")
    for position in range(directory, directory + 60):
        damaged = bytearray(content)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        warnings = []
        restored, _ = store.restore(model, warnings.append)
        assert (restored == 0) == bool(warnings)
