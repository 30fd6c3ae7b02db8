"""The stages of a study: run one by one, timed, and named where they fail."""

import statistics
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from advrush_tf.errors import NonFiniteLossError, UserError, one_line
from advrush_tf.files import read_json, sha256, write_json
from advrush_tf.runs.run import Log, Run
from advrush_tf.runs.study_settings import StudySettings

_STAGES, _LOG = "stages.json", "log.txt"
_FAILURES = (
    UserError,
    NonFiniteLossError,
    MemoryError,
    tf.errors.ResourceExhaustedError,
)


class Stage(NamedTuple):
    """One run of a study.

    Attributes:
        name: its folder's path in that of the study.
        kind: shared by runs that take about as long.
        report: the file that it writes last.
        needs: names of the stages whose results it reads.
        run: runs it in a folder; `log` receives the lines.
    """

    name: str
    kind: str
    report: str
    needs: Sequence[str]
    run: Callable[[Path, Log], Any]


class Done(NamedTuple):
    """A finished stage: what it took, and the SHA-256 of its report's files."""

    seconds: float
    sha256: list[str]


def _checksums(report: Path) -> list[str]:
    """Those of a report's last file and, where that is a table, of its numbers."""
    paths = sorted({report, report.with_suffix(".json")})
    return [sha256(path) for path in paths if path.is_file()]


def read_report(path: Path) -> Any:
    """Returns the content of a stage's JSON file.

    Raises:
        UserError: it is damaged.
    """
    try:
        return read_json(path)
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({one_line(error)}). Delete its folder and run the "
            "same command to make it anew."
        ) from None


def _read_done(path: Path) -> dict[str, Done]:
    try:
        return {name: Done(**done) for name, done in read_report(path).items()}
    except (TypeError, AttributeError):
        raise UserError(
            f"{path} does not hold the finished runs of a study; delete it, and the "
            "same command looks at all runs again."
        ) from None


class Progress:
    """Runs stages, keeps their seconds, and logs a line on each with the time left.

    Raises:
        UserError: the file of finished stages is damaged.
    """

    def __init__(self, stages: Sequence[Stage], run: Run[StudySettings]):
        self._stages, self._workdir, self._log = stages, run.workdir, run.log
        self._path = run.workdir / _STAGES
        self._done = _read_done(self._path) if self._path.exists() else {}
        self.failures: dict[str, str] = {}

    def announce(self) -> None:
        """Logs a line on what there is and what comes next."""
        self._log(f"study of {len(self._stages)} runs in {self._workdir}")
        self._log(self._line(""))

    def run(self, stage: Stage) -> None:
        """Runs a stage unless it is done or needs one that failed."""
        if self._is_done(stage):
            return
        if failed := [name for name in stage.needs if name in self.failures]:
            self.failures[stage.name] = f"it needs {failed[0]}"
            return
        started, folder = time.monotonic(), self._workdir / stage.name
        try:
            stage.run(folder, partial(_append, folder / _LOG))
        except _FAILURES as error:
            # A sentence for the user needs no class before it.
            reason = str(error) if isinstance(error, UserError) else one_line(error)
            self.failures[stage.name] = reason
            self._log(f"FAILED {stage.name}: {reason}")
        else:
            seconds = round(time.monotonic() - started, 1)
            self._done[stage.name] = Done(seconds, _checksums(folder / stage.report))
            write_json(self._path, {n: d._asdict() for n, d in self._done.items()})
            took = duration(seconds)
            self._log(self._line(f"{stage.name} took {took}; "))
        # Graphs would add up from stage to stage.
        keras.backend.clear_session()

    def _is_done(self, stage: Stage) -> bool:
        """Returns whether a stage has ended, and its report is the one it wrote."""
        done = self._done.get(stage.name)
        report = self._workdir / stage.name / stage.report
        return done is not None and _checksums(report) == done.sha256

    def _line(self, event: str) -> str:
        left = [s for s in self._stages if not self._is_done(s)]
        left = [s for s in left if s.name not in self.failures]
        done = len(self._stages) - len(left)
        following = f"; next {left[0].name}" if left else ""
        return (
            f"[{done}/{len(self._stages)}] {event}"
            f"{time_left([s.kind for s in left], self._times())}{following}"
        )

    def _times(self) -> dict[str, list[float]]:
        """The seconds of finished stages by kind."""
        times: dict[str, list[float]] = {}
        for stage in self._stages:
            if stage.name in self._done:
                seconds = self._done[stage.name].seconds
                times.setdefault(stage.kind, []).append(seconds)
        return times


def _append(path: Path, line: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def time_left(kinds: Collection[str], times: dict[str, list[float]]) -> str:
    """Returns in words how long stages will take, as far as it is known.

    Args:
        kinds: of the stages.
        times: the seconds of finished stages by kind.
    """
    known = [statistics.mean(times[kind]) for kind in kinds if kind in times]
    unknown = len(kinds) - len(known)
    parts = [duration(sum(known))] if known or not unknown else []
    parts += [f"{unknown} runs of new kinds"] if unknown else []
    return f"{' and '.join(parts)} left"


def duration(seconds: float) -> str:
    """Returns seconds in a unit that suits them."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
