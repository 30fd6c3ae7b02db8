import errno
import io
import os
import re
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

from advrush_tf.errors import UserError
from advrush_tf.files import write_json
from advrush_tf.runs import progress as running
from advrush_tf.runs.progress import (
    ProgressBar,
    TracingNotice,
    print_existing_summary,
    print_line,
    progress_bar,
    write_failure,
)
from advrush_tf.runs.settings import Settings
from support.small_networks import tiny_batch


class Terminal(io.StringIO):
    """Text that was written to a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def bars(monkeypatch):
    """Every bar that is made."""
    made = []

    def make(*args, **kwargs):
        made.append(tqdm(*args, mininterval=0, **kwargs))
        return made[-1]

    tqdm = running.tqdm
    monkeypatch.setattr(running, "tqdm", make)
    return made


def _fit(bar, epochs=2, steps=3):
    """Fits a linear model of 2 images a step, and evaluates it on 4 after an epoch."""
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    x, y = tiny_batch(size=2 * steps)
    model.fit(
        x,
        y,
        batch_size=2,
        epochs=epochs,
        validation_data=(x[:4], y[:4]),
        validation_batch_size=1,
        verbose=0,
        callbacks=[bar],
    )


def test_files_elsewhere_are_not_the_workdirs_fault(tmp_path):
    workdir = tmp_path / "run"
    own = OSError(errno.EACCES, "Permission denied", str(workdir / "a.npz"))
    assert write_failure(workdir, own).startswith(f"Writing to {workdir} failed")
    other = OSError(errno.ENOSPC, "No space left on device", "/tmp/x")
    assert write_failure(workdir, other).startswith(
        "/tmp/x cannot be used: No space left on device."
    )


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no full device")
def test_an_output_that_is_full_is_one_clear_line(monkeypatch):
    with open("/dev/full", "w") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", full)
        with pytest.raises(
            UserError, match=r"output cannot be written \(No space left"
        ):
            print_line("x")
        # What Python holds back is not written once more.
        full.flush()


def test_a_terminal_shows_a_bar_for_each_epoch_and_evaluation(monkeypatch, bars):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    _fit(ProgressBar(3, 4))
    assert [(bar.desc, bar.n, bar.total) for bar in bars] == [
        ("epoch 1/2", 3, 3),
        ("evaluation", 4, 4),
        ("epoch 2/2", 3, 3),
        ("evaluation", 4, 4),
    ]
    text = terminal.getvalue()
    for part in ("epoch 1/2", "epoch 2/2", "evaluation", "2/3", "3/4", "loss="):
        assert part in text
    # A finished bar is wiped out, so that a log's lines are not mixed with it.
    assert text.rsplit("\r", 2)[-2].strip() == ""
    assert "\n" not in text


@pytest.mark.parametrize("moment", ["on_train_batch_end", "on_test_batch_end"])
def test_an_error_leaves_no_bar_in_its_line(monkeypatch, bars, moment):
    def fail(batch, logs=None):
        raise ArithmeticError("loss became nan")

    terminal, bar = Terminal(), ProgressBar(3, 4)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(bar, moment, fail)
    with pytest.raises(ArithmeticError), bar:
        _fit(bar)
    assert "0%" in terminal.getvalue()
    wiped, after = terminal.getvalue().rsplit("\r", 2)[1:]
    assert wiped.strip() == after == ""


def test_a_bar_shows_the_steps_loss(monkeypatch, bars):
    monkeypatch.setattr(sys, "stderr", Terminal())
    bar = ProgressBar(2, 1)
    bar.set_params({"epochs": 7})
    bar.on_epoch_begin(4)
    bar.on_train_batch_end(0, {"loss": np.float32(1.23456)})
    assert bars[0].desc.startswith("epoch 5/7")
    assert bars[0].postfix == "loss=1.235"
    bar.on_train_batch_end(1, {"loss": 1.0})
    assert bars[0].n == 2


def test_a_line_does_not_break_into_a_bar(monkeypatch, capsys):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress_bar(3, "epoch 1/2", "step"):
        before = len(terminal.getvalue())
        print_line("traced")
        wiped, drawn = terminal.getvalue()[before:].lstrip("\r").split("\r", 1)
    assert capsys.readouterr().out == "traced\n"
    assert wiped.strip() == "" and "epoch 1/2" in drawn


def test_a_file_shows_a_line_each_minute_in_place_of_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    _fit(ProgressBar(3, 4))
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(running._Lines, "SECONDS", 0.01)
    with progress_bar(3, "epoch 1/2", "step") as bar:
        bar.update(2)
        bar.set_postfix(loss="0.5")
        # However long a step takes.
        while not (lines := capsys.readouterr().out.splitlines()):
            time.sleep(0.01)
    assert re.fullmatch(
        r"epoch 1/2: 2 of 3 steps, loss=0.5, 00:00 so far, (00:00|\?) left", lines[-1]
    )
    assert sys.stderr.getvalue() == ""
    time.sleep(0.05)
    capsys.readouterr()
    time.sleep(0.05)
    assert capsys.readouterr().out == ""


def test_tracing_is_announced_where_it_happens():
    lines = []
    notice = TracingNotice(lines.append, {1: 12.3})
    for epoch in range(3):
        notice.on_epoch_begin(epoch)
        announced = list(lines)
        notice.on_train_batch_end(0)
        notice.on_train_batch_end(1)
        assert len(announced) == (0, 1, 2)[epoch]
    assert "about 12 s" in lines[0]
    assert lines[1:] == ["traced, with a first step, in 0 s"]


def test_lines_are_on_disk_at_once(tmp_path, monkeypatch):
    with (tmp_path / "log").open("w") as log:
        monkeypatch.setattr(sys, "stdout", log)
        print_line("epoch 1")
        assert (tmp_path / "log").read_text() == "epoch 1\n"


@pytest.mark.parametrize(
    ("error", "what", "remedy"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/a/x.npz"),
            "No space left on device (runs/a/x.npz)",
            "free some space",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "runs/a/x.npz"),
            "Permission denied (runs/a/x.npz)",
            "make it writable",
        ),
        (
            OSError(errno.EDQUOT, "Disk quota exceeded"),
            "Disk quota exceeded",
            "free some space",
        ),
        (
            OSError("events: No space left on device"),
            "events: No space left on device",
            "free some space",
        ),
    ],
    ids=["full", "forbidden", "quota", "full, without a number"],
)
def test_a_failing_write_says_what_to_do(error, what, remedy):
    assert write_failure(Path("runs/a"), error) == (
        f"Writing to runs/a failed: {what}. What was written before is intact; "
        f"{remedy} and run the same command to resume."
    )


def test_a_finished_run_is_told_again_and_a_damaged_report_named(tmp_path):
    path, lines = tmp_path / "report.json", []

    def tell(report, workdir, say):
        say(f"{report['score']} in {workdir.name}")

    settings, content = Settings(), {"score": 7, "settings": {}}
    write_json(path, content)
    given = path, settings, tell, lines.append, "game"
    assert print_existing_summary(*given) == content
    expected = [f"{tmp_path} holds a finished game.", f"7 in {tmp_path.name}"]
    assert lines == expected
    for damage in ("no json", "{}"):
        path.write_text(damage)
        with pytest.raises(UserError, match=r"report.json is damaged .* Delete it"):
            print_existing_summary(*given)
    assert lines == expected
