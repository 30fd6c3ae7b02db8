import errno
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.attacks.base import BatchedClassifier
from advrush_tf.attacks.cleverhans import PGD
from advrush_tf.runs import trials as trials_module
from advrush_tf.runs.trials import AttackJob, run_shares
from support.attacked import Endless, fitted

ATTACKS = {"pgd": PGD(epsilon=0.1, steps=2), "again": PGD(epsilon=0.15, steps=3)}
NAMES = ("/CPU:0", "/CPU:1")


class Worker:
    """Stands for the devices of one of some workers, which are threads here."""

    def __init__(self, index=0, meeting=None, table=None):
        self.index, self.meeting = index, meeting or threading.Barrier(1)
        self.table = {} if table is None else table
        self.num_replicas = len(NAMES) * self.meeting.parties

    def from_all(self, message):
        self.table[self.index] = message
        self.meeting.wait(60)
        messages = [self.table[index] for index in range(self.meeting.parties)]
        self.meeting.wait(60)
        return messages

    def trials(self, folder, attacks=ATTACKS):
        _, x, y = fitted()
        places = [len(NAMES) * self.index + i for i in range(len(NAMES))]
        return {
            name: AttackJob(
                BatchedClassifier(fitted()[0], (6, 6, 1), 5),
                attacks,
                x,
                y,
                seed=3,
                path=folder / f"{place}.npz",
                share=(place, self.num_replicas),
            )
            for name, place in zip(NAMES, places, strict=True)
        }


def test_the_shares_of_all_workers_are_one_trial(tmp_path, monkeypatch):
    # Workers hear of one another many times meanwhile.
    monkeypatch.setattr(trials_module, "_BEAT_SECONDS", 0.01)
    model, x, y = fitted()
    classifier = BatchedClassifier(model, (6, 6, 1), 5)
    whole = AttackJob(classifier, ATTACKS, x, y, 3, tmp_path / "whole.npz").run()
    assert len(set(whole.broken_by)) > 2
    meeting, table = threading.Barrier(2), {}
    both = [Worker(index, meeting, table) for index in range(2)]

    def run(worker):
        return run_shares(worker.trials(tmp_path), x, worker)

    with ThreadPoolExecutor(2) as threads:
        ledgers = list(threads.map(run, both))
    for ledger in ledgers:
        np.testing.assert_array_equal(ledger.images, whole.images)
        np.testing.assert_array_equal(ledger.broken_by, whole.broken_by)
        np.testing.assert_array_equal(ledger.done, whole.done)
        assert ledger.finished == 2
    assert ledgers[0].seconds == ledgers[1].seconds > 0


ENDLESS = {"endless": Endless()}


def wait_for_steps(*trials):
    """Waits until trials are amid their first attack, before which they save."""
    while not all(trial.path.exists() for trial in trials):
        time.sleep(0.01)
    time.sleep(0.1)


def test_a_share_that_fails_ends_the_others(tmp_path):
    worker = Worker()
    endless, full = worker.trials(tmp_path, ENDLESS).values()

    def fail():
        wait_for_steps(endless)
        raise OSError(errno.ENOSPC, "No space left on device")

    full.run = fail
    with pytest.raises(OSError, match="No space"):
        run_shares({NAMES[0]: endless, NAMES[1]: full}, fitted()[1], worker)
    assert endless.ledger.finished == 0


def test_a_lost_worker_ends_all_shares(tmp_path, monkeypatch):
    monkeypatch.setattr(trials_module, "_BEAT_SECONDS", 0.1)
    worker = Worker()
    trials = worker.trials(tmp_path, ENDLESS)

    def lost(message):
        wait_for_steps(*trials.values())
        raise tf.errors.UnavailableError(None, None, "gone")

    worker.from_all = lost
    with pytest.raises(tf.errors.UnavailableError):
        run_shares(trials, fitted()[1], worker)
    assert [trial.ledger.finished for trial in trials.values()] == [0, 0]
