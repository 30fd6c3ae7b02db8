"""The lock on a workdir: one run at a time writes there."""

import contextlib
import errno
import fcntl
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path

from advrush_tf.errors import UserError
from advrush_tf.files import TEMPORARY

LOCK = ".lock"
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextlib.contextmanager
def locked(workdir: Path, log: Callable[[str], None]) -> Iterator[None]:
    """Holds the lock of a workdir, and first removes what killed runs left there.

    The system releases the lock when the process ends, however it ends. The file stays:
    without it two runs could hold locks on files of the same name.

    Args:
        workdir: made if it does not exist.
        log: receives a line where the file system has no locks.

    Raises:
        UserError: another run holds it.
        OSError: the folder cannot be used.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(workdir / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if _acquire(descriptor, workdir, log):
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, _holder().encode(), 0)
            _remove_leftovers(workdir)
        yield
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, workdir: Path, log: Callable[[str], None]) -> bool:
    """Returns whether the lock is held; False where the file system has none."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip()
        raise UserError(
            f"{workdir} is in use by {holder or 'another process'}. Wait until it has "
            "ended, or give another --workdir."
        ) from None
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        log(
            f"warning: the file system of {workdir} has no locks ({error.strerror}); "
            "make sure that no other run works there."
        )
        return False
    return True


def _holder() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}\n"


def _remove_leftovers(workdir: Path) -> None:
    """Removes the temporary files and folders of saves that were killed.

    Those in folders with a lock of their own are another run's, which may go on.
    """
    ours = TEMPORARY.format("*")
    for path in workdir.iterdir():
        folder = path.is_dir() and not path.is_symlink()
        if fnmatch(path.name, ours):
            shutil.rmtree(path) if folder else path.unlink()
        elif folder and not (path / LOCK).exists():
            _remove_leftovers(path)
