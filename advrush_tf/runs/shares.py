"""A trial in shares: run side by side on all devices, then put together."""

import io
from collections.abc import Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait

import numpy as np
import tensorflow as tf

from advrush_tf.attacks.series import Progress
from advrush_tf.runs.devices import Devices
from advrush_tf.runs.trials import AttackJob, shard_rows

# How often workers make sure that the others are still there.
_BEAT_SECONDS = 5.0


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
