import multiprocessing
import os
import signal
import time
from concurrent.futures.process import BrokenProcessPool

import pytest

from advrush_tf.runs.processes import working_processes
from support.processes import IMPORTED


def _prepare(number, word):
    os.putenv("PREPARED", f"{number}{word}")


def test_a_process_is_new_and_prepared_and_ctrl_c_does_not_end_it():
    with working_processes(1, _prepare, "yes") as pool:
        process = pool.submit(os.getpid).result()
        assert process != os.getpid()
        assert pool.submit(os.system, 'test "$PREPARED" = 0yes').result() == 0
        os.kill(process, signal.SIGINT)
        assert pool.submit(os.getpid).result() == process
        with pytest.raises(BrokenProcessPool):
            pool.submit(os.abort).result()


def test_an_error_does_not_wait_for_work(monkeypatch):
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: IMPORTED)
    started = time.monotonic()
    with pytest.raises(KeyError), working_processes(1) as pool:
        process = pool.submit(os.getpid).result()
        pool.submit(time.sleep, 100)
        raise KeyError
    assert time.monotonic() - started < 60
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
