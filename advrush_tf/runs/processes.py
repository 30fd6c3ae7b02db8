"""Processes that work for this one, and end with it."""

import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from typing import Any


@contextlib.contextmanager
def working_processes(
    count: int, prepare: Callable[..., Any] | None = None, *arguments: Any
) -> Iterator[concurrent.futures.ProcessPoolExecutor]:
    """A pool of new processes, of which none outlives the `with` statement or this one.

    Args:
        count: how many there are at most.
        prepare: called in each before its first work, with its number from 0 on and
            the arguments.
        *arguments: of `prepare`.
    """
    _track_quietly()
    context = multiprocessing.get_context("spawn")
    begun = context.Value("i", 0)
    with concurrent.futures.ProcessPoolExecutor(
        count, context, _begin, (begun, prepare, *arguments)
    ) as pool:
        try:
            yield pool
        except BaseException:
            # The pool would wait for their work.
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def _track_quietly() -> None:
    """Keeps multiprocessing's tracker from telling what it removes after Ctrl-C."""
    given = os.environ.get("PYTHONWARNINGS", "")
    quiet = f"ignore::UserWarning:{resource_tracker.__name__}"
    os.environ["PYTHONWARNINGS"] = f"{given},{quiet}".strip(",")
    resource_tracker.ensure_running()
    os.environ["PYTHONWARNINGS"] = given


def _begin(begun: Any, prepare: Callable[..., Any] | None, *arguments: Any) -> None:
    # Ctrl-C reaches all processes of a terminal.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with begun.get_lock():
        number, begun.value = begun.value, begun.value + 1
    if prepare:
        prepare(number, *arguments)


def _end_with_parent() -> None:
    """Ends this process when the one that started it is gone, killed perhaps."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)
