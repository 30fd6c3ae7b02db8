"""Keeps the terminal for the launcher's own lines while TensorFlow starts."""

import contextlib
import importlib
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_STDERR = 2


def program() -> None:
    """Runs the launcher of an installed program: search.py of advrush-search."""
    # As Python does for a script.
    sys.path.insert(0, str(Path(__file__).parent))
    name = Path(sys.argv[0]).stem.removeprefix("advrush-")
    launcher = importlib.import_module(name)
    launcher.run(launcher.main, held_back)


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """Holds back standard error while a launcher imports what it needs.

    Ctrl-C, or an environment in which the package cannot work, is one line.
    """
    # TensorFlow's own lines would break into bars; what ends a run is an exception too.
    # One of its errors, "remapper failed", costs nothing (docs/numbers.md).
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Pictures are drawn without a display, whatever the shell's choice.
    os.environ["MPLBACKEND"] = "agg"
    terminal = os.dup(_STDERR)

    def interrupted(*signal_and_frame: Any) -> None:
        # At once: compiled modules would turn an exception into others.
        os.write(terminal, b"interrupted: nothing was run yet.\n")
        os._exit(130)

    # Until `run` has its own.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupted)
    try:
        with held_back():
            yield
    except ImportError as error:
        if error.name != "advrush_tf":
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Holds back standard error, that of C++ code too; shows it if the body fails."""
    sys.stderr.flush()
    terminal = os.dup(_STDERR)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), _STDERR)
        try:
            yield
        except (Exception, SystemExit):
            held.seek(0)
            os.write(terminal, held.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(terminal, _STDERR)
            os.close(terminal)
