"""How runs of all kinds are interrupted, resume, end, are found finished and fail."""

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from advrush_tf.errors import UserError
from advrush_tf.files import read_json
from advrush_tf.genotypes.genotype import Genotype
from advrush_tf.runs.attack import run_attack
from advrush_tf.runs.attack_settings import AttackSettings
from advrush_tf.runs.fit import run_fit
from advrush_tf.runs.landscape import run_landscape
from advrush_tf.runs.landscape_settings import LandscapeSettings
from advrush_tf.runs.recipes import fit_settings
from advrush_tf.runs.run import Run
from advrush_tf.runs.search import run_search
from advrush_tf.runs.search_settings import SearchSettings
from support.attacked import save_linear_model
from support.processes import assert_same_last_checkpoint, kill_while_writing


class Kind(NamedTuple):
    """One kind of run.

    Attributes:
        name: of its launcher.
        run: runs settings in a workdir; `log` receives the lines.
        make: makes the settings from `values`.
        values: the settings, but for files.
        report: the file that is written last.
        killed_at: the file during whose writing a run is killed.
        kept: the file of what was done before; it is not done again.
        full_at: the first file that a run whose work is done still writes.
        finished: words on a finished run that is run again.
        record: a file that the run needs, apart from checkpoints.
        remade: the files that are made anew where they are damaged; others are refused.
    """

    name: str
    run: Callable[..., Any]
    make: Callable[..., Any]
    values: dict[str, Any]
    report: str
    killed_at: str
    kept: str
    full_at: str
    finished: str
    record: str | None = None
    remade: tuple[str, ...] = ()


KINDS = [
    Kind(
        "search",
        run_search,
        SearchSettings,
        {
            **{"epochs": 2, "warmup_epochs": 1, "batch_size": 256, "init_channels": 1},
            **{"num_cells": 1, "num_nodes": 1, "stem_multiplier": 1},
            "primitives": ("none", "skip_connect", "sep_conv_3x3"),
        },
        report="genotype.json",
        killed_at="checkpoints/epoch_0002.npz",
        kept="checkpoints/epoch_0001.npz",
        full_at="genotype.json",
        finished="Resuming .* after epoch 2 of 2",
        remade=("genotype.json",),
    ),
    Kind(
        "fit",
        run_fit,
        fit_settings,
        {
            **{"epochs": 2, "batch_size": 256, "init_channels": 1, "num_cells": 1},
            **{"epsilon": 0.1, "attack_steps": 1, "eval_steps": 2, "test_images": 50},
            **{"validation_portion": 0.1, "auxiliary_weight": 0.0, "drop_path": 0.1},
            **{"ema_decay": 0.9, "awp_gamma": 0.01},
        },
        report="fit.json",
        killed_at="checkpoints/epoch_0002.npz",
        kept="checkpoints/epoch_0001.npz",
        full_at="model_last.keras",
        finished="holds a finished fit",
        record="genotype.json",
    ),
    Kind(
        "attack",
        run_attack,
        AttackSettings,
        {
            **{"attacks": ("pgd5x2", "apgd-ce"), "epsilon": "1/20"},
            **{"test_images": 20, "batch_size": 10, "checks": False},
        },
        report="results.json",
        killed_at="trials/0_apgd-ce_1of20.npz",
        kept="trials/0_pgd5x2_1of20.npz",
        full_at="results.json",
        finished="holds a finished evaluation",
        record="trials/0_apgd-ce_1of20.npz",
    ),
    Kind(
        "landscape",
        run_landscape,
        LandscapeSettings,
        {
            **{"epsilon": "1/20", "test_images": 4, "batch_size": 4, "top": 2},
            **{"lanczos_steps": 3, "surface_points": 3, "cut_points": 4},
        },
        report="inspection.json",
        killed_at="inspection.json",
        kept="measured/model_0.npz",
        full_at="inspection.json",
        finished="holds a finished inspection",
        record="measured/model_0.npz",
        remade=("measured/model_0.npz",),
    ),
]


class Case(NamedTuple):
    """A finished run, with its report and the settings that it had."""

    kind: Kind
    values: dict[str, Any]
    workdir: Path
    report: Any

    def run(self, workdir: Path, **changes: Any) -> list[str]:
        """Runs the same, but for changes, in a workdir; returns the printed lines."""
        lines: list[str] = []
        settings = self.kind.make(**self.values | changes)
        self.kind.run(settings, workdir, log=lines.append)
        return lines


def read(workdir, kind):
    """The report, without times, which differ from run to run, also inside models."""
    return without_times(read_json(workdir / kind.report))


def without_times(value):
    if isinstance(value, dict):
        kept = value.keys() - {"seconds", "sha256"}
        return {name: without_times(value[name]) for name in kept}
    return [without_times(v) for v in value] if isinstance(value, list) else value


def times(workdir):
    """When each file was written, but for those that any start writes again."""
    again = {"settings.json", "environment.json", ".lock"}
    files = (path for path in workdir.rglob("*") if path.is_file())
    return {
        path: path.stat().st_mtime_ns
        for path in files
        if path.name not in again and "tfevents" not in path.name
    }


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """The settings that name files, by the kind's name."""
    folder = tmp_path_factory.mktemp("inputs")
    model = str(save_linear_model(folder / "model.keras"))
    other = str(save_linear_model(folder / "other.keras", images=100))
    edges, path = [["sep_conv_3x3", 0], ["skip_connect", 1]], folder / "genotype.json"
    Genotype(edges, [2], edges, [2]).save(path)
    return {
        "search": {},
        "fit": {"genotype": str(path)},
        "attack": {"model": model, "source_model": (other,)},
        "landscape": {"model": (model,)},
    }


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.name)
def case(request, tmp_path_factory, inputs):
    """A run that first was stopped when it had its workdir and nothing else."""
    kind, workdir = request.param, tmp_path_factory.mktemp(request.param.name)
    values = {"dataset": "digits", **kind.values, **inputs[kind.name]}
    opened = Run.open

    def stop(run, dataset):
        opened(run, dataset)
        raise KeyboardInterrupt

    case = Case(kind, values, workdir, None)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "open", stop)
        case.run(workdir)
    assert (workdir / "settings.json").exists()
    case.run(workdir)
    return case._replace(report=read(workdir, kind))


def test_a_killed_run_resumes_and_ends_as_one_that_was_not(case, tmp_path):
    """By SIGKILL, while it writes."""
    kind, workdir = case.kind, tmp_path / "run"
    texts = {
        n: ",".join(v) if isinstance(v, tuple) else v for n, v in case.values.items()
    }
    kill_while_writing(kind.name, texts, workdir, Path(kind.killed_at).name)
    assert not (workdir / kind.report).exists()
    assert not (workdir / kind.killed_at).exists()
    before = (workdir / kind.kept).stat().st_mtime_ns
    case.run(workdir)
    assert (workdir / kind.kept).stat().st_mtime_ns == before
    assert read(workdir, kind) == case.report
    assert not list(workdir.rglob(".*.tmp"))
    if (workdir / "checkpoints").exists():
        assert_same_last_checkpoint(case.workdir, workdir)


def test_a_finished_run_is_shown_again_and_not_repeated(case):
    report = case.workdir / case.kind.report
    before, text = times(case.workdir), report.read_text()
    lines = case.run(case.workdir)
    assert any(re.search(case.kind.finished, line) for line in lines)
    assert report.read_text() == text
    after = times(case.workdir)
    if case.kind.run is run_search:
        # The genotype and its drawings are cheap to make again.
        made = {path for path in before if path.name.startswith("genotype")}
        before = {path: t for path, t in before.items() if path not in made}
    assert before.items() <= after.items()


def test_other_settings_are_refused(case):
    before = times(case.workdir)
    with pytest.raises(UserError, match="seed is 0 there and 1 here"):
        case.run(case.workdir, seed=1)
    assert times(case.workdir) == before


def test_a_damaged_report_is_noticed(case):
    path = case.workdir / case.kind.report
    text = path.read_bytes()
    digit = bytearray(text)
    digit[re.search(rb'": (\d)', text).start(1)] ^= 1
    path.write_bytes(digit)
    if case.kind.report in case.kind.remade:
        case.run(case.workdir)
    else:
        with pytest.raises(UserError, match=rf"{path.name} is damaged .* Delete it"):
            case.run(case.workdir)
        path.write_bytes(text)
    assert read(case.workdir, case.kind) == case.report


def test_settings_that_are_gone_are_not_replaced_by_others(case):
    path = case.workdir / "settings.json"
    text = path.read_bytes()
    path.unlink()
    with pytest.raises(UserError, match=r"settings.json is damaged \(it is gone\)"):
        case.run(case.workdir, seed=1)
    assert not path.exists()
    path.write_bytes(text)


def test_a_damaged_record_is_noticed(case):
    if not case.kind.record:
        pytest.skip("test_checkpoints.py damages checkpoints")
    report, path = (case.workdir / f for f in (case.kind.report, case.kind.record))
    text, whole = report.read_bytes(), path.read_bytes()
    report.unlink()
    path.write_bytes(whole[:50])
    if case.kind.record in case.kind.remade:
        lines = case.run(case.workdir)
        assert any(re.search(rf"{path.name} is damaged", line) for line in lines)
    else:
        with pytest.raises(UserError, match=rf"{path.name}"):
            case.run(case.workdir)
        path.write_bytes(whole)
        report.write_bytes(text)
    assert read(case.workdir, case.kind) == case.report


def test_a_full_disk_is_one_clear_line(case, monkeypatch):
    report = case.workdir / case.kind.report
    text, synchronise = report.read_text(), os.fsync
    report.unlink()

    def full(descriptor):
        if case.kind.full_at in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        synchronise(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"No space left .* free some space"):
        case.run(case.workdir)
    assert not report.exists()
    report.write_text(text)
