import lzma
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from advrush_tf.official.checkpoint import read_checkpoint

TESTDATA = Path(__file__).resolve().parents[2] / "testdata"
KEPT = TESTDATA / "checkpoints"


def _contents(path, folder):
    if path.suffix == ".xz":
        path, packed = folder / path.stem, path
        path.write_bytes(lzma.decompress(packed.read_bytes()))
    return read_checkpoint(path)


def test_script_makes_the_files_that_are_kept(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr(
        sys, "argv", ["make_torch_checkpoints.py", "--output", str(tmp_path / "made")]
    )
    script = TESTDATA / "make_torch_checkpoints.py"
    runpy.run_path(str(script), run_name="__main__")
    made, kept = (sorted(f.iterdir()) for f in (tmp_path / "made", KEPT))
    assert [path.name for path in made] == [path.name for path in kept]
    for ours, theirs in zip(made, kept, strict=True):
        new, old = _contents(ours, tmp_path), _contents(theirs, tmp_path)
        assert list(new) == list(old)
        for key, value in old.items():
            np.testing.assert_array_equal(new[key], value)


def test_the_files_are_small():
    assert sum(path.stat().st_size for path in KEPT.iterdir()) < 600_000
