"""One attack on one model, in shares side by side on all devices, kept on disk."""

import io
import time
from collections.abc import Iterator, Mapping
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
    """Runs a cascade on a model, resumable at any moment.

    Args:
        classifier: the model.
        attacks: the cascade's attacks by name.
        x: (images, height, width, channels), float32 in [0, 1].
        y: (images,), integer labels.
        seed: of all random numbers.
        path: where the ledger is kept, from which an interrupted trial goes on.
        evaluation: what the trial is part of, as JSON types; see `Progress`.
        transfer: whether the images are for other models: then images that this one
            is wrong about are attacked as well, and as strongly as the attacks can.
        share: (index, count), which of `count` shares of the images is attacked: those
            from `index` on in steps of `count`, each as it would be among all.

    Attributes:
        ledger: of the share's images.
        path: where it is kept.

    Raises:
        ValueError: the ledger there is damaged or of another evaluation.
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
        share: tuple[int, int] = (0, 1),
    ):
        if transfer:
            attacks = {name: _persistent(each) for name, each in attacks.items()}
        self._transfer = transfer
        self._victim, self._attacks, self.path = classifier, attacks, path
        rows = shard_rows(share)
        self._numbers, self._share = np.arange(len(x))[rows], share
        self._x, self._y, self._seed = x[rows], y[rows], seed
        self.ledger = Progress(self._x, list(attacks), evaluation)
        if path.exists():
            self.ledger.restore(path)

    def run(self) -> Progress:
        """Runs what is left and gives the finished ledger.

        Raises:
            OSError: the ledger could not be written.
        """
        if self.ledger.finished < len(self._attacks):
            self._saved = time.monotonic()
            arguments = (self._attacks, self._x, self._y, self._seed, self.ledger)
            options = (self._transfer, self._numbers, self._watch)
            run_series(self._victim, *arguments, *options)
            self._save()
        return self.ledger

    def stop(self) -> None:
        """Ends `run` in another thread as soon as `BatchedClassifier.stop` does."""
        self._victim.stop()

    def _watch(self, name: str, total: int, outcomes: Any) -> Iterator[Any]:
        self._save()
        broken = 0
        index, count = self._share
        # Only the first share has a bar: all have as many images.
        label = name if count == 1 else f"{name}, share 1 of {count}"
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
        self.ledger.seconds += now - self._saved
        self._saved = now
        self.ledger.save(self.path)


def shard_rows(share: tuple[int, int]) -> slice:
    """The rows of a share (index, count): easy and hard images come in stretches."""
    index, count = share
    return slice(index, None, count)


def _persistent(attack: Attack) -> Attack:
    """The attack as it transfers best; FAB looks for near images in any case."""
    return attack if isinstance(attack, FAB) else replace(attack, persistent=True)


def run_shares(
    trials: Mapping[str, AttackJob], x: np.ndarray, devices: Devices
) -> Progress:
    """Runs this process' shares of a trial, and waits for those of the others.

    Args:
        trials: by the name of the device that runs it, see `Devices.local`.
        x: (images, height, width, channels), the images of all shares.
        devices: of the run.

    Returns:
        The finished ledger of all images, the same on every worker.

    Raises:
        OSError: a ledger could not be written.
    """
    if devices.num_replicas == 1:
        (trial,) = trials.values()
        return trial.run()
    with ThreadPoolExecutor(len(trials)) as threads:
        shares = [threads.submit(_run_on, *place) for place in trials.items()]
        try:
            _wait_for_all(shares, devices)
        except BaseException:  # Also the user's, who interrupts the program.
            for trial in trials.values():
                trial.stop()
            raise
    return _put_together(list(trials.values()), x, devices)


def _run_on(device: str, trial: AttackJob) -> None:
    with tf.device(device):
        trial.run()


def _wait_for_all(shares: list[Future], devices: Devices) -> None:
    """Waits until the shares of all workers are done, or one of this worker's fails."""
    everywhere = False
    while not everywhere:
        done, running = wait(shares, _BEAT_SECONDS, FIRST_EXCEPTION)
        for share in done:
            share.result()
        everywhere = all(devices.from_all(b"" if running else b"done"))


def _put_together(trials: list[AttackJob], x: np.ndarray, devices: Devices) -> Progress:
    # For each trial here, what the workers have in its place.
    files = [devices.from_all(trial.path.read_bytes()) for trial in trials]
    own = trials[0].ledger
    whole = Progress(x, own.attacks, own.evaluation)
    in_order = [file for worker in zip(*files, strict=True) for file in worker]
    for index, file in enumerate(in_order):
        rows = shard_rows((index, len(in_order)))
        share = Progress(x[rows], own.attacks, own.evaluation)
        share.restore(io.BytesIO(file))
        whole.take(rows, share)
    return whole
