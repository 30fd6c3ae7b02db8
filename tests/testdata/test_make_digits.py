import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from advrush_tf import data

ROOT = Path(__file__).resolve().parents[2]
DIGITS = Path(data.__file__).parent / "digits"


def _examples(folder, split):
    dataset = tfds.builder_from_directory(folder).as_dataset(split=split)
    return list(tfds.as_numpy(dataset))


def test_script_makes_the_data_set_that_is_kept(tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.setattr(sys, "argv", ["make_digits.py", "--output", str(tmp_path)])
    runpy.run_path(str(ROOT / "testdata" / "make_digits.py"), run_name="__main__")
    folders = tmp_path / "digits" / "1.0.0", DIGITS / "1.0.0"
    # Not the files' bytes: the order of fields in a record differs between processes.
    for split, size in (("train", 1437), ("test", 360)):
        made, kept = (_examples(folder, split) for folder in folders)
        assert len(made) == len(kept) == size
        for ours, theirs in zip(made, kept, strict=True):
            assert ours["label"] == theirs["label"]
            np.testing.assert_array_equal(ours["image"], theirs["image"])


def test_files_hold_no_absolute_path():
    for path in DIGITS.rglob("*.json"):
        assert not re.search(r"[\"\s](/|[A-Za-z]:\\)", path.read_text("utf-8"))
