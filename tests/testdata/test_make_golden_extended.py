import os
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

TESTDATA = Path(__file__).resolve().parents[2] / "testdata"
NAMES = ("evalnet_amoebanet_c2_l3_s2.npz", "supernet_extended_c2_l3_s2.npz")
# Set to a clone of the official code to make the files anew.
OFFICIAL = "OFFICIAL_ADVRUSH"


def _arrays(folder, name):
    with np.load(folder / name, allow_pickle=False) as file:
        return dict(file)


@pytest.mark.parametrize("name", NAMES)
def test_inputs_are_float32_numbers(name):
    arrays = _arrays(TESTDATA / "golden", name)
    assert arrays["state/__packed__"].dtype == arrays["x"].dtype == np.float32
    for key in filter(lambda key: key.startswith("alphas_"), arrays):
        np.testing.assert_array_equal(arrays[key], np.float32(arrays[key]))


def test_script_makes_the_files_that_are_kept(tmp_path, monkeypatch):
    pytest.importorskip("torchvision")
    if not (official := os.environ.get(OFFICIAL)):
        pytest.skip(f"{OFFICIAL} names no clone of the official code")
    monkeypatch.setattr(sys, "argv", ["", official, f"--output={tmp_path}"])
    script = TESTDATA / "make_golden_extended.py"
    runpy.run_path(str(script), run_name="__main__")
    for name in NAMES:
        made, kept = _arrays(tmp_path, name), _arrays(TESTDATA / "golden", name)
        assert set(made) == set(kept)
        for key in set(kept) - {"meta"}:
            if made[key].dtype.kind == "U":
                assert made[key] == kept[key]
            else:
                error = np.abs(made[key] - kept[key]).max()
                assert error <= 1e-10 * np.abs(kept[key]).max(), key
