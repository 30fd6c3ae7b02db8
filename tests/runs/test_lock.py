import errno
import fcntl
import os
import signal

import pytest

from advrush_tf.errors import UserError
from advrush_tf.runs.lock import locked
from support.processes import IMPORTED

# Holds the lock, and dies in the middle of a save.
PROGRAM = """
import tempfile
from advrush_tf.files import replacing
from advrush_tf.runs.lock import locked

with locked(workdir, print), replacing(workdir / "a.npz") as file:
    file.write(b"half")
    tempfile.mkdtemp(".advrush.tmp", ".", workdir)
    holding.send(True)
    holding.recv()
"""


def test_one_run_at_a_time_until_its_process_ends(tmp_path):
    workdir = tmp_path / "new" / "run"
    holding, end = IMPORTED.Pipe()
    names = {"workdir": workdir, "holding": end}
    other = IMPORTED.Process(target=exec, args=(PROGRAM, names))
    other.start()
    end.close()
    assert holding.recv()
    words = f"in use by process {other.pid} on .* --workdir"
    with pytest.raises(UserError, match=words), locked(workdir, print):
        pass
    assert len(os.listdir(workdir)) == 3
    os.kill(other.pid, signal.SIGKILL)
    other.join()
    # What the killed save left behind goes; what is another run's or no run's stays.
    (workdir / "stage").mkdir()
    kept = [".notes.tmp", "stage/.lock", "stage/.a.1.advrush.tmp"]
    for name in kept:
        (workdir / name).touch()
    (workdir / "logs").mkdir()
    (workdir / "logs" / ".a.1.advrush.tmp").touch()
    with locked(workdir, print):
        found = {str(p.relative_to(workdir)) for p in workdir.rglob("*")}
        assert found == {".lock", "stage", "logs", *kept}
    with locked(workdir, print):
        pass


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch):
    def flock(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    (tmp_path / ".others.tmp").touch()
    lines = []
    with locked(tmp_path, lines.append):
        (line,) = lines
        assert "has no locks (No locks available)" in line
        # They may be of a run that goes on.
        assert (tmp_path / ".others.tmp").exists()
