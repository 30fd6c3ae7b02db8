"""The Python of README, docs and examples runs as it is written, from top to bottom.

Beside it, data sets, networks, epochs and attacks are made small, and little is traced.
"""

import functools
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import advrush_tf
from advrush_tf.attacks import autoattack, sanity_probes
from advrush_tf.data.array_examples import ArrayExamples
from advrush_tf.data.dataset import ImageDataset
from advrush_tf.files import read_json
from advrush_tf.runs.study import Plan
from advrush_tf.runs.study_report import RESULTS, tables
from advrush_tf.runs.study_results import as_json
from advrush_tf.runs.study_settings import StudySettings

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ("README.md", *(f"docs/{path.name}" for path in ROOT.glob("docs/*.md")))
SHAPES = {"cifar10": (32, 32, 3), "digits": (8, 8, 1)}
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)


def blocks(document):
    """The Python blocks of a document, each on the lines where it stands there."""
    text = (ROOT / document).read_text("utf-8")
    if document.endswith(".py"):
        return [text]
    found = _BLOCK.finditer(text)
    return ["\n" * text.count("\n", 0, m.start(1)) + m[1] for m in found]


def _examples(count, shape):
    images = np.random.default_rng(count).integers(0, 256, (count, *shape), np.uint8)
    return ArrayExamples(images, np.arange(count, dtype=np.int32) % 10)


def _load_dataset(name):
    train, test = (_examples(count, SHAPES[name]) for count in (64, 6))
    return ImageDataset(name, train, test, 10, tuple("0123456789"))


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A folder in which everything is small."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(advrush_tf, "load_dataset", _load_dataset)
    search, fit = advrush_tf.AdvRushSearchModel, advrush_tf.AdvRushFitModel
    sizes = {"init_channels": 1, "num_cells": 1}
    _change(monkeypatch, advrush_tf.CellNetwork, "__init__", 3, sizes)
    _change(monkeypatch, search, "__init__", 2, sizes | {"num_nodes": 1})
    metric = advrush_tf.CurvatureMetric
    _change(monkeypatch, metric, "__init__", None, {"lanczos_steps": 1})
    for kind in (search, fit):
        _change(monkeypatch, kind, "fit", None, {"epochs": 1})
    # The attack that is traced fastest.
    square = functools.partial(autoattack.Square, queries=1)
    monkeypatch.setattr(autoattack, "Square", square)
    members = (autoattack.Member.SQUARE,)
    monkeypatch.setitem(autoattack._SERIES, autoattack.Version.STANDARD, members)
    monkeypatch.setattr(sanity_probes, "_STEPS", 1)
    monkeypatch.setattr(sanity_probes, "_LONG_STEPS", 1)
    # Iterators of real ones sleep for a minute when they end.
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", tf.distribute.get_strategy)
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def _change(monkeypatch, kind, name, count, options):
    """Lets a method keep `count` positional arguments and have these options."""
    method = getattr(kind, name)

    def changed(self, *args, **given):
        return method(self, *args[:count], **{**given, **options})

    monkeypatch.setattr(kind, name, changed)


@pytest.mark.parametrize(
    "document", [d for d in (*DOCUMENTS, "examples/digits.py") if blocks(d)]
)
def test_its_python_runs(document, small):
    names = {"__name__": document}
    for block in blocks(document):
        exec(compile(block, ROOT / document, "exec"), names)


def test_its_study_is_what_the_records_give(tmp_path):
    shutil.unpack_archive(ROOT / "testdata" / "study_cifar10.tar.xz", tmp_path)
    folder = tmp_path / "study_cifar10"
    written = read_json(folder / RESULTS)
    given = {name: written[name] for name in ("entries", "seeds", "objectives")}
    given |= {n: v for n, v in written["settings"].items() if n != "first_entry"}
    settings = StudySettings(
        **{n: tuple(v) if isinstance(v, list) else v for n, v in given.items()}
    )
    found = as_json(settings, Plan(settings, folder, None).rows, {})
    assert found | {"library": written["library"]} == written
    assert (len(found["runs"]), len(found["differences"])) == (30, 16)
    text = (ROOT / "docs" / "numbers.md").read_text("utf-8")
    *shown, _ = [table.markdown() for table in tables(found)]
    assert [table for table in shown if table not in text] == []
