"""The terminal: lines for the user, progress bars, sentences on failing writes."""

import contextlib
import errno
import io
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
from tqdm import tqdm

from advrush_tf.errors import UserError, one_line
from advrush_tf.files import read_json
from advrush_tf.runs.settings import Settings


def print_line(line: str) -> None:
    """Prints at once, also into a file: a run's log is read while it runs.

    A bar that stands on the terminal is drawn anew below the line.

    Raises:
        UserError: standard output is closed, or what it leads to is full.
    """
    try:
        with tqdm.external_write_mode():
            print(line, flush=True)
    except OSError as error:
        # What is left in Python's buffer would fail once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise UserError(
            f"Standard output cannot be written ({error.strerror}). What was saved "
            "before is intact; run the same command with another output to go on."
        ) from None


def write_failure(workdir: Path, error: OSError) -> str:
    """A sentence on a file that could not be read or written, and what to do."""
    if error.filename and not _lies_in(workdir, str(error.filename)):
        return (
            f"{error.filename} cannot be used: {error.strerror}. What was written to "
            f"{workdir} before is intact; run the same command to resume."
        )
    full = error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space" in str(error)
    place = f" ({error.filename})" if error.filename else ""
    return (
        f"Writing to {workdir} failed: {error.strerror or error}{place}. What was "
        f"written before is intact; {'free some space' if full else 'make it writable'}"
        " and run the same command to resume."
    )


def _lies_in(folder: Path, path: str) -> bool:
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder))


def print_existing_summary(
    path: Path,
    settings: Settings,
    print_summary: Callable[[dict[str, Any], Path, Callable[[str], None]], None],
    log: Callable[[str], None],
    kind: str,
) -> dict[str, Any]:
    """Shows a finished run again, from the report in its folder.

    Args:
        path: the report, a JSON file with the settings of its run.
        settings: what they must be.
        print_summary: takes a report, its folder and the `log` to print it by.
        log: receives the lines for the user.
        kind: what was run, in a word.

    Returns:
        The report.

    Raises:
        UserError: the report is damaged, or of a run of other settings.
    """
    try:
        report = read_json(path)
        different = settings.differences(report["settings"])
        print_summary(report, path.parent, lambda line: None)
    except UserError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged ({one_line(error)}). Delete it and run the same "
            "command to write it anew."
        ) from None
    if different:
        raise UserError(
            f"{path} is of a run with other settings: {'; '.join(different)}. Delete "
            "it and run the same command to write it anew."
        )
    log(f"{path.parent} holds a finished {kind}.")
    print_summary(report, path.parent, log)
    return report


def progress_bar(total: int, description: str, unit: str, shown: bool = True) -> tqdm:
    """A bar with the time left; to be used in a `with` statement.

    Where standard error is no terminal, a line each minute takes its place.

    Args:
        total: how many units there are.
        description: what is done.
        unit: what is counted.
        shown: False for a bar that is not to be seen anywhere.
    """
    options = {"total": total, "desc": description, "unit": unit, "leave": False}
    if not shown or sys.stderr.isatty():
        return tqdm(**options, disable=not shown)
    return _Lines(**options)


class _Lines(tqdm):
    """Prints a line each minute, however long a unit takes."""

    SECONDS = 60.0

    def __init__(self, **options: Any):
        # tqdm itself prints once, to nowhere.
        options |= {"file": io.StringIO(), "mininterval": math.inf}
        super().__init__(**options, bar_format=_LINE)
        self._closed = threading.Event()
        threading.Thread(target=self._print, daemon=True).start()

    def _print(self) -> None:
        # A full output is for the main thread to notice.
        with contextlib.suppress(UserError):
            while not self._closed.wait(self.SECONDS):
                print_line(str(self))

    def close(self) -> None:
        """Prints no more."""
        self._closed.set()
        super().close()


_LINE = (
    "{desc}: {n_fmt} of {total_fmt} {unit}s{postfix}, {elapsed} so far, "
    "{remaining} left"
)


class ProgressBar(keras.callbacks.Callback):
    """A bar with the time left for each epoch and each evaluation, see `progress_bar`.

    To be used in a `with` statement: a bar that an exception leaves behind would be
    in the line of the exception.

    Args:
        steps_per_epoch: length of an epoch's bar.
        steps_per_evaluation: length of an evaluation's bar.
    """

    def __init__(self, steps_per_epoch: int, steps_per_evaluation: int):
        super().__init__()
        self._steps = steps_per_epoch
        self._evaluation_steps = steps_per_evaluation
        self._bars = contextlib.ExitStack()

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *failure: object) -> None:
        self._bars.close()

    def on_epoch_begin(self, epoch, logs=None):
        total = self.params["epochs"]
        self._bar = self._open(self._steps, f"epoch {epoch + 1}/{total}")

    def on_train_batch_end(self, batch, logs=None):
        # Before the epoch ends there may be an evaluation, which has another bar.
        self._bar.set_postfix(loss=f"{float(logs['loss']):.3f}", refresh=False)
        self._bar.update()
        if self._bar.n == self._steps:
            self._bar.close()

    def on_test_begin(self, logs=None):
        self._evaluation = self._open(self._evaluation_steps, "evaluation")

    def on_test_batch_end(self, batch, logs=None):
        self._evaluation.update()

    def on_test_end(self, logs=None):
        self._evaluation.close()

    def _open(self, total: int, description: str) -> tqdm:
        return self._bars.enter_context(progress_bar(total, description, "step"))


class TracingNotice(keras.callbacks.Callback):
    """Logs, before steps that trace graphs, how long that may take, and then did.

    Args:
        log: receives the lines.
        seconds: by epoch, from 0, for those whose first step traces.
    """

    def __init__(self, log: Callable[[str], None], seconds: Mapping[int, float]):
        super().__init__()
        self._log, self._seconds = log, seconds
        self._started: float | None = None

    def on_epoch_begin(self, epoch, logs=None):
        if seconds := self._seconds.get(epoch):
            self._started = time.perf_counter()
            self._log(
                f"tracing the graphs of a step, about {seconds:.0f} s to judge by the "
                "model's building ..."
            )

    def on_train_batch_end(self, batch, logs=None):
        if self._started is not None:
            seconds = time.perf_counter() - self._started
            self._log(f"traced, with a first step, in {seconds:.0f} s")
            self._started = None
