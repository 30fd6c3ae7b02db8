"""Command lines: the one that started a run, and those to run next."""

import os
import shlex
import sys
from pathlib import Path
from typing import Any

from advrush_tf.files import write_text

COMMAND = "command.txt"
# What the names of installed launchers begin with.
_INSTALLED = "advrush-"


def record_command(workdir: Path) -> None:
    """Writes the launcher's command line, for a POSIX shell, into a run's folder.

    Nothing is written for a run that another program started.

    Raises:
        OSError: the file could not be written.
    """
    if _is_script() or _is_installed():
        start = [] if _is_installed() else [_python()]
        words = shlex.join([*start, *sys.argv])
        write_text(workdir / COMMAND, f"cd {shlex.quote(os.getcwd())} && {words}\n")


def read_command(workdir: Path) -> str:
    """Returns the command line that `record_command` wrote, empty if there is none."""
    path = workdir / COMMAND
    return path.read_text("utf-8").strip() if path.is_file() else ""


def launcher_command(launcher: str, **flags: Any) -> str:
    """Returns the command line of a launcher, for a POSIX shell in the current folder.

    It names this process' Python, and the launcher beside the running one.

    Args:
        launcher: its name, such as "fit".
        **flags: values by the flags' names; those that are None are left out.
    """
    running = Path(sys.argv[0])
    if _is_installed():
        start = [str(running.with_name(f"{_INSTALLED}{launcher}"))]
    else:
        folder = running.parent if _is_script() else Path("launch")
        start = [_python(), str(folder / f"{launcher}.py")]
    given = (f"--{name}={v}" for name, v in flags.items() if v is not None)
    return shlex.join([*start, *given])


def tensorboard_command(folder: Path) -> str:
    """Returns the command line that shows a folder of TensorBoard's files."""
    return shlex.join([_python(), "-m", "tensorboard.main", f"--logdir={folder}"])


def _is_script() -> bool:
    return Path(sys.argv[0]).resolve().parent.name == "launch"


def _is_installed() -> bool:
    return Path(sys.argv[0]).name.startswith(_INSTALLED)


def _python() -> str:
    """Returns this process' Python, relative where it lies in the current folder."""
    python = Path(sys.executable or "python")
    inside = python.is_relative_to(Path.cwd()) and python.parent != Path.cwd()
    return str(python.relative_to(Path.cwd()) if inside else python)
