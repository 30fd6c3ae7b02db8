"""Launchers in forks of one process, which has imported TensorFlow for all of them."""

import contextlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]


class Ending(NamedTuple):
    """How a launcher ended.

    Attributes:
        returncode: negative for a signal; None if it was stopped after its time.
        stdout, stderr: what it wrote.
    """

    returncode: int | None
    stdout: str
    stderr: str


class Launchers:
    """The process that is forked; to be used in a `with` statement."""

    def __enter__(self):
        self._server = subprocess.Popen(
            [sys.executable, "-m", "support.forked"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests"))),
                "TF_CPP_MIN_LOG_LEVEL": "3",
            },
            text=True,
        )
        return self

    def __exit__(self, *failure):
        self._server.kill()
        self._server.communicate()

    def run(self, name, *arguments, folder=ROOT, seconds=120.0):
        """Runs launch/<name>.py to its end.

        Args:
            name: of the launcher.
            *arguments: its flags.
            folder: the current one of the launcher.
            seconds: after which it is stopped.

        Returns:
            Its `Ending`.
        """
        request = json.dumps([name, arguments, str(folder), seconds])
        self._server.stdin.write(request + "\n")
        self._server.stdin.flush()
        return Ending(*json.loads(self._server.stdout.readline()))


def _serve():
    import tensorflow_datasets  # noqa: F401, launchers import it late

    from advrush_tf.runs import convert, dry_runs, fit, landscape  # noqa: F401

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        answers.write(json.dumps(_run(*json.loads(line))) + "\n")
        answers.flush()


def _run(name, arguments, folder, seconds):
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        child = os.fork()
        if not child:
            _become(name, arguments, folder, output, errors)
        texts, code = [], _wait(child, seconds)
        for file in (output, errors):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "replace"))
    return code, *texts


def _become(name, arguments, folder, output, errors):
    """Turns this process into a launcher, and ends it."""
    code = 1
    try:
        os.setsid()
        os.chdir(folder)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output.fileno(), 1)
        os.dup2(errors.fileno(), 2)
        sys.argv = [str(ROOT / "launch" / f"{name}.py"), *arguments]
        sys.path.insert(0, str(ROOT / "launch"))
        runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(child, seconds):
    """Returns a process' exit code; None if it is stopped after these seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


if __name__ == "__main__":
    _serve()
