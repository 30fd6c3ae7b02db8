"""The command line that started a run, kept beside its settings."""

import shlex
import sys
from pathlib import Path

from advrush_tf.files import write_text

COMMAND = "command.txt"


def record_command(workdir: Path) -> None:
    """Writes the launcher's command line, for a POSIX shell, into a run's folder.

    Nothing is written for a run that another program started.

    Raises:
        OSError: the file could not be written.
    """
    if Path(sys.argv[0]).resolve().parent.name == "launch":
        write_text(workdir / COMMAND, shlex.join(["python", *sys.argv]) + "\n")


def read_command(workdir: Path) -> str:
    """Returns the command line that `record_command` wrote, empty if there is none."""
    path = workdir / COMMAND
    return path.read_text("utf-8").strip() if path.is_file() else ""
