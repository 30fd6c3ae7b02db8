import runpy
import sys
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

SCRIPT = Path(__file__).resolve().parents[2] / "testdata" / "make_imagenet_like.py"


def test_the_script_makes_what_looks_like_imagenet(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["script", "--output", str(tmp_path)])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    folders = capsys.readouterr().out.splitlines()[-2:]
    names = "imagenet2012", "imagenet_resized/64x64"
    for name, folder in zip(names, folders, strict=True):
        true = tfds.builder(name, data_dir=tmp_path)
        # tfds itself takes it for the true data set, in the version that it prepares.
        assert true.is_prepared()
        assert Path(folder) == tmp_path / name
        made = tfds.builder_from_directory(true.data_dir)
        for key in true.info.supervised_keys:
            assert type(made.info.features[key]) is type(true.info.features[key])
        assert made.info.features["image"].shape == true.info.features["image"].shape
        assert made.info.features["label"].num_classes == 1000
        assert made.info.splits["train"].num_shards == 5


def test_only_the_test_split_has_no_labels(imagenet_like):
    folder = next(imagenet_like[0].iterdir())
    builder = tfds.builder_from_directory(folder)
    labels = {
        split: sorted(int(e["label"]) for e in builder.as_dataset(split=split))
        for split in builder.info.splits
    }
    assert labels == {
        "train": list(range(101)),
        "validation": list(range(37)),
        "test": [-1] * 5,
    }
    sizes = {
        e["image"].shape for e in builder.as_dataset(split="train").as_numpy_iterator()
    }
    assert len(sizes) > 90
    assert np.ptp([height for height, _, _ in sizes]) > 30
