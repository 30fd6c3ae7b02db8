import errno
import time

import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.attacks.base import BatchedClassifier
from advrush_tf.attacks.cleverhans import PGD
from advrush_tf.runs import trials as trials_module
from advrush_tf.runs.trials import AttackJob, run_sharded
from support.attacked import Endless, fitted
from support.meetings import Worker, on_two_workers

ATTACKS = {"pgd": PGD(epsilon=0.1, steps=1), "again": PGD(epsilon=0.15, steps=2)}
NAMES = ("/CPU:0", "/CPU:1")


class TwoDevices(Worker):
    """A worker of two devices."""

    @property
    def num_replicas(self):
        return len(NAMES) * self.worker[1]

    def jobs(self, folder, attacks=ATTACKS):
        _, x, y = fitted()
        indices = [len(NAMES) * self.worker[0] + i for i in range(len(NAMES))]
        return {
            name: AttackJob(
                BatchedClassifier(fitted()[0], (6, 6, 1), 5),
                attacks,
                x,
                y,
                seed=3,
                path=folder / f"{index}.npz",
                shard=(index, self.num_replicas),
            )
            for name, index in zip(NAMES, indices, strict=True)
        }


def paths(folder, count):
    return [folder / f"{index}.npz" for index in range(count)]


def test_the_shards_of_all_workers_are_one_series(tmp_path, monkeypatch):
    # Workers hear of one another many times meanwhile.
    monkeypatch.setattr(trials_module, "_BEAT_SECONDS", 0.01)
    model, x, y = fitted()
    classifier = BatchedClassifier(model, (6, 6, 1), 5)
    whole = AttackJob(classifier, ATTACKS, x, y, 3, tmp_path / "whole.npz").run()
    assert len(set(whole.broken_by)) > 2

    def run(devices):
        return run_sharded(devices.jobs(tmp_path), paths(tmp_path, 4), x, devices)

    found = on_two_workers(run, TwoDevices)
    for progress in found:
        np.testing.assert_array_equal(progress.images, whole.images)
        np.testing.assert_array_equal(progress.broken_by, whole.broken_by)
        np.testing.assert_array_equal(progress.done, whole.done)
        assert progress.finished == 2
    assert found[0].seconds == found[1].seconds > 0


ENDLESS = {"endless": Endless()}


def wait_for_steps(*jobs):
    """Waits until jobs are amid their first attack, before which they save."""
    while not all(job.path.exists() for job in jobs):
        time.sleep(0.01)
    time.sleep(0.1)


def test_a_shard_that_fails_ends_the_others(tmp_path):
    worker = TwoDevices()
    endless, full = worker.jobs(tmp_path, ENDLESS).values()

    def fail():
        wait_for_steps(endless)
        raise OSError(errno.ENOSPC, "No space left on device")

    full.run = fail
    with pytest.raises(OSError, match="No space"):
        jobs = {NAMES[0]: endless, NAMES[1]: full}
        run_sharded(jobs, paths(tmp_path, 2), fitted()[1], worker)
    assert endless.progress.finished == 0


def test_a_lost_worker_ends_all_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(trials_module, "_BEAT_SECONDS", 0.1)
    worker = TwoDevices()
    jobs = worker.jobs(tmp_path, ENDLESS)

    def lost(number):
        wait_for_steps(*jobs.values())
        raise tf.errors.UnavailableError(None, None, "gone")

    worker.gather = lost
    with pytest.raises(tf.errors.UnavailableError):
        run_sharded(jobs, paths(tmp_path, 2), fitted()[1], worker)
    assert [job.progress.finished for job in jobs.values()] == [0, 0]
