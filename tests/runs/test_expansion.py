import io
import zipfile

import h5py
import numpy as np
import pytest

from advrush_tf.errors import UserError
from advrush_tf.runs.expansion import check_expansion
from advrush_tf.runs.models import load_classifier, save_model
from support.small_networks import tiny_network

HUGE = 2**28  # bytes, of zeros


def _hdf5(**options):
    """An HDF5 file of a few kilobytes that declares `HUGE` bytes."""
    file = io.BytesIO()
    with h5py.File(file, "w") as weights:
        group = weights.create_group("layers/dense/vars")
        group.create_dataset("0", (HUGE // 4,), np.float32, **options)
    return file.getvalue()


def _zeros():
    """A zip member is written in pieces: the test itself needs no such memory."""
    return (bytes(2**20) for _ in range(HUGE // 2**20))


@pytest.mark.parametrize(
    ("name", "pieces"),
    [
        ("config.json", _zeros),
        ("model.weights.h5", lambda: [_hdf5()]),
        ("model.weights_00001.h5", lambda: [_hdf5(chunks=True, compression="gzip")]),
    ],
    ids=["compressed", "declared and not there", "compressed chunks"],
)
def test_a_file_that_becomes_far_more_is_not_loaded(name, pieces, tmp_path):
    path = tmp_path / "bomb.keras"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(name, "w") as member,
    ):
        for piece in pieces():
            member.write(piece)
    assert path.stat().st_size < HUGE / 100
    with pytest.raises(ValueError, match=r"would become 268,435,456, more than"):
        check_expansion(path)
    with pytest.raises(UserError, match=r"cannot be loaded: ValueError: its .* bytes"):
        load_classifier(path)


def test_a_model_is_no_such_file(tmp_path):
    save_model(tiny_network(), tmp_path / "model.keras")
    check_expansion(tmp_path / "model.keras")
