"""Workers of a run that are threads of one process."""

import threading
from concurrent.futures import ThreadPoolExecutor

from advrush_tf.runs.devices import Devices


class Worker(Devices):
    """The devices of one of some workers, whose numbers meet in a list.

    Args:
        index: of the worker.
        barrier: where all workers wait.
        numbers: the numbers of all workers.
    """

    def __init__(self, index=0, barrier=None, numbers=None):
        super().__init__()
        self._barrier, self._numbers = barrier or threading.Barrier(1), numbers or [0]
        self.worker, self.chief = (index, self._barrier.parties), index == 0

    def gather(self, number):
        self._numbers[self.worker[0]] = number
        self._barrier.wait(60)
        numbers = [*self._numbers]
        self._barrier.wait(60)
        return numbers


def on_two_workers(act, kind=Worker):
    """Runs `act` with the devices of each of two workers; gives what both return."""
    barrier, numbers = threading.Barrier(2), [0, 0]
    both = [kind(index, barrier, numbers) for index in range(2)]
    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(act, both))
