"""A whole evaluation of robustness: from settings to results in a folder, resumable."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from advrush_tf.attacks.catalogue import named_attack
from advrush_tf.attacks.sanity_probes import probe
from advrush_tf.attacks.series import is_right
from advrush_tf.attacks.victim import BatchedClassifier
from advrush_tf.data.dataset import ImageDataset, load_dataset
from advrush_tf.data.examples import Examples
from advrush_tf.errors import UserError
from advrush_tf.runs.attack_settings import AttackSettings
from advrush_tf.runs.devices import Devices
from advrush_tf.runs.evaluation import AttackResult, Evaluation
from advrush_tf.runs.evaluation_report import RESULTS, print_summary, write_report
from advrush_tf.runs.models import load_classifier, open_classifier, sha256
from advrush_tf.runs.progress import print_existing_summary, print_line, write_failure
from advrush_tf.runs.settings import record_settings
from advrush_tf.runs.shares import run_shares
from advrush_tf.runs.trials import AttackJob

_TRIALS = "trials"


def run_attack(
    settings: AttackSettings,
    workdir: str | Path,
    data_dir: str | None = None,
    devices: Devices | None = None,
    say: Callable[[str], None] = print_line,
) -> dict[str, Any]:
    """Measures how robust a model is, or goes on with what `workdir` holds.

    The images are shared out to the devices. An image's random numbers are its own:
    what becomes of it does not depend on how many devices there are.

    Args:
        settings: of the evaluation.
        workdir: folder that receives settings.json, results.json, results.md, figures,
            tensorboard/ and trials/, from which an interrupted evaluation goes on; of
            several workers the chief alone uses it, but that each keeps its own trials.
        data_dir: tfds' folder of prepared data sets.
        devices: on which to run; one device if None.
        say: receives the lines for the user.

    Returns:
        What results.json holds.

    Raises:
        UserError: the input is at fault; one clear line.
        WorkerLostError: another worker of the run is gone.
    """
    devices = devices or Devices()
    say = devices.chiefs(say)
    with devices.watched():
        return _run_attack(settings, Path(workdir), data_dir, devices, say)


def _run_attack(
    settings: AttackSettings,
    workdir: Path,
    data_dir: str | None,
    devices: Devices,
    say: Callable[[str], None],
) -> dict[str, Any]:
    dataset = load_dataset(settings.dataset, data_dir, settings.image_size)
    paths = [Path(path) for path in (settings.model, *settings.source_model)]
    share = math.ceil(len(_test_images(settings, dataset)) / devices.num_replicas)
    batch_size = min(settings.batch_size, share)
    victims = {
        device: _open_victims(device, paths, dataset, batch_size)
        for device in devices.local
    }
    settings = dataclasses.replace(settings, sha256=tuple(map(sha256, paths)))
    devices.agree(settings.to_dict() | dataset.facts())
    devices.on_chief(lambda: record_settings(settings, workdir))
    try:
        results = devices.from_chief(lambda: _finished(workdir, say))
        if not results:
            evaluated = _evaluate(settings, dataset, victims, workdir, devices, say)
            results = devices.from_chief(lambda: _reported(evaluated, workdir, say))
    except OSError as error:
        raise UserError(write_failure(workdir, error)) from None
    return json.loads(results)


def _open_victims(
    device: str, paths: list[Path], dataset: ImageDataset, batch_size: int
) -> list[BatchedClassifier]:
    """All models, each on a device as what is measured."""
    with tf.device(device):
        return [
            open_classifier(load_classifier(path), path, dataset, batch_size)
            for path in paths
        ]


def _finished(workdir: Path, say: Callable[[str], None]) -> bytes:
    """Tells of a finished evaluation and gives its results; empty if it is not."""
    path = workdir / RESULTS
    if not path.exists():
        return b""
    print_existing_summary(path, print_summary, say, "evaluation")
    return path.read_bytes()


def _reported(
    evaluated: Evaluation, workdir: Path, say: Callable[[str], None]
) -> bytes:
    """Writes and tells of an evaluation and gives its results."""
    write_report(evaluated, workdir, say)
    return (workdir / RESULTS).read_bytes()


def _test_images(settings: AttackSettings, dataset: ImageDataset) -> Examples:
    return dataset.test.first(settings.test_images or len(dataset.test))


def _evaluate(
    settings: AttackSettings,
    dataset: ImageDataset,
    victims: Mapping[str, list[BatchedClassifier]],
    workdir: Path,
    devices: Devices,
    say: Callable[[str], None],
) -> Evaluation:
    if (workdir / _TRIALS).exists():
        say(f"Resuming {workdir}.")
    x, y = _test_images(settings, dataset).unit_arrays()
    crafter = _Crafter(settings, victims, x, y, workdir / _TRIALS, devices, say)
    measured, clean = crafter.victims[0], crafter.clean[0]
    say(f"clean accuracy {clean.mean():.2%} of {len(x)} images")
    doubts = []
    if settings.checks:
        say("checking the model ...")
        radius = settings.radius(settings.epsilon)
        doubts = probe(measured, x, y, settings.norm, radius, settings.seed)
    for doubt in doubts:
        say(f"warning: {doubt.sentence}")
    crafted = [crafter.craft(*planned) for planned in _plan(settings)]
    return Evaluation(settings, dataset, x, y, clean, measured, crafted, doubts)


def _plan(settings: AttackSettings) -> list[tuple[int, str, str]]:
    """What is crafted: the model's place, the attack's name and epsilon.

    On other models only at the epsilon of the evaluation.
    """
    plan = [
        (source, name, settings.epsilon)
        for source in range(1 + len(settings.source_model))
        for name in settings.attacks
    ]
    others = [radius for radius in settings.curve if radius != settings.epsilon]
    return plan + [(0, name, radius) for radius in others for name in settings.attacks]


class _Crafter:
    """Crafts on any of the models and measures what it made on all of them.

    Crafting is shared out to all devices; each worker measures on its first one.
    """

    def __init__(
        self,
        settings: AttackSettings,
        victims: Mapping[str, list[BatchedClassifier]],
        x: np.ndarray,
        y: np.ndarray,
        folder: Path,
        devices: Devices,
        say: Callable[[str], None],
    ):
        self._settings, self._copies, self._x, self._y = settings, victims, x, y
        self._folder, self._devices, self._say = folder, devices, say
        self.victims = next(iter(victims.values()))
        # Of each model (images,), bool: right about the clean images.
        self.clean = [is_right(classifier, x, y) for classifier in self.victims]

    def craft(self, source: int, name: str, epsilon: str) -> AttackResult:
        """Runs a trial, or what is left of it, and measures its images."""
        trials = {
            device: self._trial(device, source, name, epsilon)
            for device in self._devices.local
        }
        ledger = run_shares(trials, self._x, self._devices)
        # Crafting may by chance mend an image that a model was wrong about.
        right = [
            was_right & is_right(classifier, ledger.images, self._y)
            for classifier, was_right in zip(self.victims, self.clean, strict=True)
        ]
        crafted = AttackResult(source, name, epsilon, ledger, right)
        others = self._settings.source_model
        place = f", crafted on {others[source - 1]}" if source else ""
        self._say(f"{name}, epsilon {epsilon}{place}: accuracy {crafted.accuracy:.2%}")
        return crafted

    def _trial(self, device: str, source: int, name: str, epsilon: str) -> AttackJob:
        """A device's share of a trial."""
        settings = self._settings
        attacks = named_attack(name, settings.norm, settings.radius(epsilon))
        # At other radii nothing is crafted for other models.
        transfer = bool(settings.source_model) and epsilon == settings.epsilon
        index, count = share = self._devices.local[device]
        suffix = f"_{index + 1}of{count}" if count > 1 else ""
        file = f"{source}_{name}_{epsilon.replace('/', 'of')}{suffix}.npz"
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            return AttackJob(
                self._copies[device][source],
                attacks,
                self._x,
                self._y,
                settings.seed,
                self._folder / file,
                settings.to_dict(),
                transfer,
                share,
            )
        except ValueError as error:
            raise UserError(f"{error}. Delete it to run that attack anew.") from None
