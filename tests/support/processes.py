"""Programs that tests run in processes of their own."""

import contextlib
import functools
import json
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from advrush_tf.runs.study import take_share
from advrush_tf.search import model as search
from support.graphs import optimise_graphs

ROOT = Path(__file__).parents[2]


# Its processes begin with everything imported, which else takes most of a short run.
IMPORTED = multiprocessing.get_context("forkserver")
IMPORTED.set_forkserver_preload(
    [f"advrush_tf.runs.{name}" for name in ("search", "attack", "landscape", "convert")]
    + ["tensorflow_datasets"]
)


class Launched:
    """A running launch/<name>.py; the names are those of `subprocess.Popen`.

    Args:
        name: of the launcher.
        arguments: its flags.
        scratch: a folder for what it prints.
        folder: the launcher's current folder.
        prepare: called in the new process before the launcher.
        optimised: whether it optimises its graphs, as it does for users.
        **environment: variables beside this process' own.
    """

    def __init__(
        self,
        name,
        arguments,
        scratch,
        folder=ROOT,
        prepare=None,
        optimised=False,
        **environment,
    ):
        self._outputs = [Path(scratch, stream) for stream in ("stdout", "stderr")]
        environment["TF_CPP_MIN_LOG_LEVEL"] = "3"
        prepared = _Prepared(self._outputs, folder, environment, optimised, prepare)
        given = name, arguments, prepared
        self._process = IMPORTED.Process(target=_run, args=given)
        self._process.start()

    @property
    def returncode(self):
        return self._process.exitcode

    def poll(self):
        return self._process.exitcode

    def kill(self):
        self._process.kill()

    def communicate(self, timeout=None):
        """Returns what it printed; one that runs for longer has no return code."""
        self._process.join(timeout)
        return tuple(output.read_text("utf-8", "replace") for output in self._outputs)


class _Prepared(NamedTuple):
    """What is set in a new process before its launcher runs."""

    outputs: list[Path]
    folder: Path
    environment: dict[str, str]
    optimised: bool
    prepare: Callable[[], None] | None

    def __call__(self):
        for descriptor, output in enumerate(self.outputs, start=1):
            os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT), descriptor)
        os.chdir(self.folder)
        os.environ.update(self.environment)
        optimise_graphs(self.optimised)
        if self.prepare:
            self.prepare()


def _run(name, arguments, prepared):
    prepared()
    sys.argv = [os.path.relpath(ROOT / "launch" / f"{name}.py"), *arguments]
    sys.path.insert(0, str(ROOT / "launch"))
    runpy.run_path(sys.argv[0], run_name="__main__")


def run_in_a_process(program, **names):
    """Runs Python in a process of its own, with everything imported, to its end.

    Args:
        program: its text.
        **names: values that it knows by these names.
    """
    process = IMPORTED.Process(target=exec, args=(program, names))
    process.start()
    process.join()
    assert process.exitcode == 0


def launch(name, *arguments, seconds=None, **options):
    """Runs launch/<name>.py to its end, or kills it after so many seconds.

    Args:
        name: of the launcher.
        *arguments: its flags.
        seconds: None for as many as it needs.
        **options: see `Launched`.

    Returns:
        Its exit code and what it printed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        launched = Launched(name, arguments, scratch, **options)
        launched.communicate(seconds)
        if launched.returncode is None:
            launched.kill()
        printed = launched.communicate()
    return subprocess.CompletedProcess(name, launched.returncode, *printed)


def _launcher(name, arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, f"launch/{name}.py", *arguments]
    return command, {"cwd": ROOT, "env": environment, "text": True}


def assert_is_one_error(result, words):
    """Checks that a launcher refused its input, in one line that has these words."""
    assert_is_one_error_of(result, result.stderr, 2, words)


def assert_is_one_error_of(process, output, code, words):
    """Checks that a launcher ended with a code and one line that has these words."""
    assert process.returncode == code
    errors = [line for line in output.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert words in errors[0]
    assert "Traceback" not in output, output[output.index("Traceback") - 300 :]


def kill_with_children(name, *flags):
    """Kills a launcher by SIGKILL; the processes that it has started end as well."""
    command, options = _launcher(name, flags)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, **options) as process:
        listed = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        # One of them is multiprocessing's own, the other does the work.
        while len(children := listed.read_text().split()) < 2:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 120
    while any(map(_runs, children)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _runs(process):
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return False


def kill_while_writing(name, settings, workdir, file):
    """Starts a run that is killed when all of a file but its name is on the disk.

    Args:
        name: of the launcher.
        settings: the run's flags.
        workdir: the run's folder.
        file: name of the file.
    """
    with tempfile.TemporaryDirectory() as scratch:
        flags = _flags(settings, workdir)
        process = Launched(name, flags, scratch, prepare=_Killing(file))
        _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    assert any(file in path.name for path in workdir.rglob(".*.tmp"))


class _Killing(NamedTuple):
    """Lets a process kill itself where it would put a file on the disk."""

    file: str

    def __call__(self):
        def fsync(descriptor):
            if self.file in os.readlink(f"/proc/self/fd/{descriptor}"):
                os.kill(os.getpid(), signal.SIGKILL)

        os.fsync = fsync


def fork_small_searches():
    """Forks the processes that a launcher starts, in which search models are small.

    For `Launched`: they need not import everything again.
    """
    sizes = {"num_nodes": 1, "primitives": ("none", "skip_connect", "sep_conv_3x3")}
    model, context = search.AdvRushSearchModel, multiprocessing.get_context
    search.AdvRushSearchModel = functools.partial(model, **sizes)
    multiprocessing.get_context = lambda method: context("fork")


def take_share_as_traced(*place):
    """Prepares a process of a study, which then leaves graphs as they are traced."""
    take_share(*place)
    optimise_graphs(False)


def _flags(settings, workdir):
    flags = [f"--{flag}={value}" for flag, value in settings.items()]
    return [*flags, f"--workdir={workdir}"]


def assert_same_last_checkpoint(first, second):
    """Checks that two runs ended with the same variables, bit for bit."""
    ends = [sorted((w / "checkpoints").iterdir())[-1] for w in (first, second)]
    assert ends[0].name == ends[1].name
    with np.load(ends[0]) as whole, np.load(ends[1]) as parts:
        assert set(whole.files) == set(parts.files)
        for name in set(whole.files) - {"notes"}:
            np.testing.assert_array_equal(whole[name], parts[name], err_msg=name)


def assert_loads_in_a_new_process(network, x, folder, *conditions):
    """Checks that a saved network gives the same logits wherever it is loaded.

    Args:
        network: a Keras model.
        x: images.
        folder: for the files.
        conditions: Python expressions of the loaded `network` that must be true.
    """
    network.save(folder / "network.keras")
    np.save(folder / "x.npy", x)
    program = (
        "import keras, numpy, os, advrush_tf",
        f"os.chdir({str(folder)!r})",
        "network = keras.models.load_model('network.keras')",
        "logits = network(numpy.load('x.npy'), training=False)",
        "numpy.save('logits.npy', logits)",
        *(f"assert {condition}" for condition in conditions),
    )
    run_in_a_process("\n".join(program))
    expected = network(x, training=False)
    np.testing.assert_array_equal(np.load(folder / "logits.npy"), expected)


@contextlib.contextmanager
def workers(name, settings, workdir, **last):
    """Starts a run on two worker processes of this machine, the chief first.

    Args:
        name: of the launcher.
        settings: the run's flags.
        workdir: the run's folder.
        **last: flags that the second worker has in place of the chief's.

    Yields:
        The processes, see `Launched`; none outlives the `with` statement.
    """
    addresses = _free_addresses(2)
    common = settings | {"strategy": "multiworker", "workdir": workdir}
    with contextlib.ExitStack() as running:
        processes = []
        for index, flags in enumerate((common, common | last)):
            given = [f"--{flag}={value}" for flag, value in flags.items()]
            task = {"type": "worker", "index": index}
            cluster = json.dumps({"cluster": {"worker": addresses}, "task": task})
            folder = running.enter_context(tempfile.TemporaryDirectory())
            processes.append(Launched(name, given, folder, TF_CONFIG=cluster))
            running.callback(processes[-1].kill)
        yield processes


def _free_addresses(count):
    with contextlib.ExitStack() as sockets:
        # All at once: no two of them get the same port.
        free = [sockets.enter_context(socket.socket()) for _ in range(count)]
        for each in free:
            each.bind(("localhost", 0))
        return [f"localhost:{each.getsockname()[1]}" for each in free]
