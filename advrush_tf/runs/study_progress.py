"""The stages of a study: run in their order, timed, and named where they fail."""

import concurrent.futures
import os
import statistics
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures.process import BrokenProcessPool
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
    tf.errors.OpError,
)


class Stage(NamedTuple):
    """One run of a study.

    Attributes:
        name: its folder's path in that of the study.
        kind: shared by runs that take about as long.
        report: the file that it writes last.
        needs: names of the stages whose results it reads.
        run: runs it in a folder; `log` receives the lines.
        after: names of stages that have ended before, well or not.
    """

    name: str
    kind: str
    report: str
    needs: Sequence[str]
    run: Callable[[Path, Log], Any]
    after: Sequence[str] = ()


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


class Outcome(NamedTuple):
    """The seconds that a stage took, and why it failed if it did."""

    seconds: float
    failure: str | None


def attempt(stage: Stage, workdir: Path) -> Outcome:
    """Runs a stage below the folder of its study."""
    started, folder = time.monotonic(), workdir / stage.name
    failure = None
    try:
        stage.run(folder, partial(_append, folder / _LOG))
    except _FAILURES as error:
        # A sentence for the user needs no class before it.
        failure = str(error) if isinstance(error, UserError) else one_line(error)
    # Graphs would add up from stage to stage.
    keras.backend.clear_session()
    return Outcome(round(time.monotonic() - started, 1), failure)


def attempt_quietly(stage: Stage, workdir: Path) -> Outcome:
    """As `attempt`, in a process whose output goes to the stage's log from now on."""
    folder = workdir / stage.name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOG).open("a") as log:
        for descriptor in (1, 2):
            os.dup2(log.fileno(), descriptor)
    return attempt(stage, workdir)


class Progress:
    """Runs stages, keeps their seconds, and logs a line on each with the time left.

    Args:
        stages: all of the study, each after those that it needs.
        run: the study's.
        pool: of the processes that run stages; None runs them here, one by one.
        processes: how many the pool has.

    Attributes:
        failures: by the stage's name, why it came to no end.

    Raises:
        UserError: the file of finished stages is damaged.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        run: Run[StudySettings],
        pool: concurrent.futures.Executor | None = None,
        processes: int = 1,
    ):
        self._stages, self._workdir, self._log = stages, run.workdir, run.log
        self._pool, self._processes = pool, processes
        self._path = run.workdir / _STAGES
        self._done = _read_done(self._path) if self._path.exists() else {}
        self._ended: set[str] = set()
        for stage in stages:
            # What was made of results that are gone is made anew.
            before = [*stage.needs, *stage.after]
            if self._is_done(stage) and self._ended.issuperset(before):
                self._ended.add(stage.name)
        self._running: dict[concurrent.futures.Future[Outcome], Stage] = {}
        self.failures: dict[str, str] = {}

    def announce(self) -> None:
        """Logs a line on what there is and what comes next."""
        self._log(f"study of {len(self._stages)} runs in {self._workdir}")
        self._log(self._line(""))

    def finish(self, stages: Sequence[Stage], others: Sequence[Stage] = ()) -> None:
        """Runs the stages that have not ended.

        Args:
            stages: each after those that it needs.
            others: are begun where a process has nothing else to do.

        Raises:
            UserError: a process is gone.
        """
        while not self._ended.issuperset(stage.name for stage in stages):
            try:
                self._begin([*stages, *others])
                ended, _ = concurrent.futures.wait(
                    self._running, return_when=concurrent.futures.FIRST_COMPLETED
                )
                for future in ended:
                    self._end(self._running.pop(future), future.result())
            except BrokenProcessPool:
                raise UserError(
                    "A process of the study was killed, perhaps because the memory was "
                    "full. The same command goes on with what is left; give it fewer "
                    "--processes."
                ) from None

    def _begin(self, stages: Sequence[Stage]) -> None:
        """Begins as many stages as there are free processes for."""
        for stage in stages:
            if len(self._running) == self._processes:
                return
            if stage.name in self._ended | self._names_of_running:
                continue
            if failed := [name for name in stage.needs if name in self.failures]:
                self.failures[stage.name] = f"it needs {failed[0]}"
                self._ended.add(stage.name)
            elif self._ended.issuperset([*stage.needs, *stage.after]):
                self._running[self._submit(stage)] = stage

    @property
    def _names_of_running(self) -> set[str]:
        return {stage.name for stage in self._running.values()}

    def _submit(self, stage: Stage) -> concurrent.futures.Future[Outcome]:
        if self._pool:
            return self._pool.submit(attempt_quietly, stage, self._workdir)
        future: concurrent.futures.Future[Outcome] = concurrent.futures.Future()
        future.set_result(attempt(stage, self._workdir))
        return future

    def _end(self, stage: Stage, outcome: Outcome) -> None:
        self._ended.add(stage.name)
        if outcome.failure is not None:
            self.failures[stage.name] = outcome.failure
            self._log(f"FAILED {stage.name}: {outcome.failure}")
            return
        # Also in another call, if they do not come to their end in this one.
        for other in self._made_of({stage.name}):
            self._done.pop(other, None)
        report = self._workdir / stage.name / stage.report
        self._done[stage.name] = Done(outcome.seconds, _checksums(report))
        write_json(self._path, {n: d._asdict() for n, d in self._done.items()})
        self._log(self._line(f"{stage.name} took {duration(outcome.seconds)}; "))

    def _made_of(self, names: set[str]) -> set[str]:
        """Names of the stages that need any of some, or need what needs them."""
        found: set[str] = set()
        for stage in self._stages:
            if (names | found).intersection([*stage.needs, *stage.after]):
                found.add(stage.name)
        return found

    def _is_done(self, stage: Stage) -> bool:
        """Returns whether a stage has ended, and its report is the one it wrote."""
        done = self._done.get(stage.name)
        report = self._workdir / stage.name / stage.report
        return done is not None and _checksums(report) == done.sha256

    def _line(self, event: str) -> str:
        left = [s for s in self._stages if s.name not in self._ended]
        done = len(self._stages) - len(left) - len(self.failures)
        waiting = [s.name for s in left if s.name not in self._names_of_running]
        following = f"; next {waiting[0]}" if waiting else ""
        remaining = time_left([s.kind for s in left], self._times(), self._processes)
        return f"[{done}/{len(self._stages)}] {event}{remaining}{following}"

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


def time_left(
    kinds: Collection[str], times: dict[str, list[float]], processes: int = 1
) -> str:
    """Returns in words how long stages will take, as far as it is known.

    Args:
        kinds: of the stages.
        times: the seconds of finished stages by kind.
        processes: how many of them run at a time.
    """
    # Some may have been paused or resumed.
    known = [statistics.median(times[kind]) for kind in kinds if kind in times]
    unknown = len(kinds) - len(known)
    parts = [duration(sum(known) / processes)] if known or not unknown else []
    parts += [f"{unknown} runs of new kinds"] if unknown else []
    return f"{' and '.join(parts)} left"


def duration(seconds: float) -> str:
    """Returns seconds in a unit that suits them."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
