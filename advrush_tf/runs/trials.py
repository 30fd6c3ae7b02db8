"""One attack on one model, in shards side by side on all devices, kept on disk."""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from advrush_tf.attacks.base import Attack, BatchedClassifier
from advrush_tf.attacks.fab import FAB
from advrush_tf.attacks.series import Progress, run_series
from advrush_tf.runs.devices import Devices
from advrush_tf.runs.progress import progress_bar

_SAVE_SECONDS = 60.0
# How often workers make sure that the others are still there.
_BEAT_SECONDS = 5.0


class AttackJob:
    """Runs a series of attacks on a model, resumable at any moment.

    Args:
        classifier: the model.
        attacks: by name, in order.
        x: (images, height, width, channels), float32 in [0, 1].
        y: (images,), integer labels.
        seed: of all random numbers.
        path: file of the progress, from which an interrupted job goes on.
        evaluation: what the job is part of, as JSON types; see `Progress`.
        transfer: whether the images are for other models: then images that this one
            is wrong about are attacked as well, and as strongly as the attacks can.
        shard: (index, count): only the images from `index` on in steps of `count`
            are attacked, each as it would be among all.

    Attributes:
        progress: of the shard's images.
        path: its file.

    Raises:
        ValueError: the file is damaged or of another evaluation.
    """

    def __init__(
        self,
        classifier: BatchedClassifier,
        attacks: dict[str, Attack],
        x: np.ndarray,
        y: np.ndarray,
        seed: int,
        path: Path,
        evaluation: Mapping[str, Any] | None = None,
        transfer: bool = False,
        shard: tuple[int, int] = (0, 1),
    ):
        if transfer:
            attacks = {name: _persistent(each) for name, each in attacks.items()}
        self._transfer = transfer
        self._classifier, self._attacks, self.path = classifier, attacks, path
        rows = shard_rows(shard)
        self._indices, self._shard = np.arange(len(x))[rows], shard
        self._x, self._y, self._seed = x[rows], y[rows], seed
        identity = _identity(evaluation or {}, shard)
        self.progress = Progress(self._x, list(attacks), identity)
        if path.exists():
            self.progress.restore(path)

    def run(self) -> Progress:
        """Runs what is left and returns the finished progress.

        Raises:
            OSError: the progress could not be written.
        """
        if self.progress.finished < len(self._attacks):
            self._saved = time.monotonic()
            run_series(
                self._classifier,
                self._attacks,
                self._x,
                self._y,
                self._seed,
                self.progress,
                self._transfer,
                self._indices,
                self._watch,
            )
            self._save()
        return self.progress

    def stop(self) -> None:
        """Ends `run` in another thread as soon as `BatchedClassifier.stop` does."""
        self._classifier.stop()

    def _watch(self, name: str, total: int, outcomes: Any) -> Iterator[Any]:
        self._save()
        broken = 0
        index, count = self._shard
        # Only the first shard has a bar: all have as many images.
        label = name if count == 1 else f"{name}, shard 1 of {count}"
        with progress_bar(total, label, "image", shown=index == 0) as bar:
            for outcome in outcomes:
                yield outcome
                broken += outcome.broken
                bar.set_postfix(broken=broken, refresh=False)
                bar.update()
                if time.monotonic() - self._saved > _SAVE_SECONDS:
                    self._save()

    def _save(self) -> None:
        now = time.monotonic()
        self.progress.seconds += now - self._saved
        self._saved = now
        self.progress.save(self.path)


def shard_rows(shard: tuple[int, int]) -> slice:
    """Returns a shard's images: in steps, as easy and hard ones come in stretches."""
    index, count = shard
    return slice(index, None, count)


def _identity(evaluation: Mapping[str, Any], shard: tuple[int, int]) -> dict[str, Any]:
    """Returns what a file of progress must match; shards may be of one size."""
    return {**evaluation, "shard": list(shard)}


def _persistent(attack: Attack) -> Attack:
    """The attack as it transfers best; FAB looks for near images in any case."""
    return attack if isinstance(attack, FAB) else replace(attack, persistent=True)


def run_sharded(
    jobs: Mapping[str, AttackJob],
    paths: Sequence[Path],
    x: np.ndarray,
    devices: Devices,
) -> Progress:
    """Runs this process' shards of a job, and waits for those of the others.

    Args:
        jobs: by the name of the device that runs it, see `Devices.local`.
        paths: the progress files of all shards, in order.
        x: (images, height, width, channels), the images of all shards.
        devices: of the run.

    Returns:
        The finished progress of all images, the same on every worker.

    Raises:
        OSError: a file could not be written or read.
    """
    if devices.num_replicas == 1:
        (job,) = jobs.values()
        return job.run()
    with ThreadPoolExecutor(len(jobs)) as threads:
        shards = [threads.submit(_run_on, *each) for each in jobs.items()]
        try:
            _wait_for_all(shards, devices)
        except BaseException:  # Also the user's, who interrupts the program.
            for job in jobs.values():
                job.stop()
            raise
    return _put_together(paths, x, next(iter(jobs.values())).progress)


def _run_on(device: str, job: AttackJob) -> None:
    with tf.device(device):
        job.run()


def _wait_for_all(shards: list[Future], devices: Devices) -> None:
    """Waits until the shards of all workers are done, or one of this worker's fails."""
    everywhere = False
    while not everywhere:
        done, running = wait(shards, _BEAT_SECONDS, FIRST_EXCEPTION)
        for shard in done:
            shard.result()
        everywhere = not any(devices.gather(len(running)))


def _put_together(paths: Sequence[Path], x: np.ndarray, local: Progress) -> Progress:
    """Reads the shards of all workers; `local` is one of them."""
    whole = Progress(x, local.attacks, local.evaluation)
    for index, path in enumerate(paths):
        rows = shard_rows((index, len(paths)))
        evaluation = _identity(local.evaluation, (index, len(paths)))
        shard = Progress(x[rows], local.attacks, evaluation)
        shard.restore(path)
        whole.take(rows, shard)
    return whole
