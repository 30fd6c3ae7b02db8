"""A whole evaluation of robustness: from settings to results in a folder, resumable."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import tensorflow as tf

from advrush_tf.attacks.base import BatchedClassifier, is_right
from advrush_tf.attacks.catalogue import named_attack
from advrush_tf.attacks.geometry import Norm, Radius
from advrush_tf.attacks.sanity_checks import missing_classes
from advrush_tf.attacks.sanity_probes import Probed, check_model
from advrush_tf.attacks.series import Progress
from advrush_tf.data.dataset import ImageDataset
from advrush_tf.data.examples import Examples
from advrush_tf.errors import UserError
from advrush_tf.files import sha256
from advrush_tf.runs.attack_settings import AttackSettings
from advrush_tf.runs.devices import Devices
from advrush_tf.runs.evaluation import AttackResult, Evaluation
from advrush_tf.runs.evaluation_report import (
    RESULTS,
    TABLE,
    print_summary,
    write_report,
)
from advrush_tf.runs.models import load_classifier, open_classifier
from advrush_tf.runs.progress import print_line
from advrush_tf.runs.run import Log, Run
from advrush_tf.runs.trials import AttackJob, run_sharded

_TRIALS = "trials"


def run_attack(
    settings: AttackSettings,
    workdir: str | Path,
    data_dir: str | None = None,
    devices: Devices | None = None,
    log: Log = print_line,
) -> dict[str, Any]:
    """Measures how robust a model is, or goes on with what `workdir` holds.

    The images are divided among the devices. An image's random numbers depend on its
    index alone: the results are the same on any number of devices.

    Args:
        settings: of the evaluation.
        workdir: folder that receives settings.json, results.json, results.md, figures,
            tensorboard/ and trials/, from which an interrupted evaluation goes on.
        data_dir: tfds' folder of prepared data sets.
        devices: on which to run; one device if None.
        log: receives the lines for the user.

    Returns:
        The content of results.json.

    Raises:
        UserError: the input is at fault; one clear line.
        WorkerLostError: another worker of the run is gone.
    """
    with Run(settings, workdir, devices, log, data_dir) as run:
        dataset = run.load_dataset(settings.dataset, settings.image_size, True)
        paths = [Path(path) for path in (settings.model, *settings.source_model)]
        classifiers = _open_everywhere(paths, dataset, run)
        run.settings = attrs.evolve(settings, sha256=tuple(map(sha256, paths)))
        run.agree(dataset)
        run.open(dataset)
        models = next(iter(classifiers.values()))
        run.print_outline("evaluation", dataset, [each.model for each in models])
        results = run.finished(RESULTS, print_summary, "evaluation", TABLE)
        if results is None:
            evaluation = _evaluate(dataset, classifiers, run)
            results = run.conclude(
                RESULTS, lambda: write_report(evaluation, run.workdir, run.log)
            )
        run.print_next(
            "landscape",
            model=settings.model,
            epsilon=settings.epsilon if settings.norm is Norm.LINF else None,
            run=run.workdir,
            report=f"{run.workdir}.html",
            workdir=f"{run.workdir}_landscape",
        )
        return results


def _open_everywhere(
    paths: list[Path], dataset: ImageDataset, run: Run[AttackSettings]
) -> dict[str, list[BatchedClassifier]]:
    """All models on each of this process' devices, by the device's name."""
    devices = run.devices
    images = len(_test_images(run.settings, dataset))
    shard = math.ceil(images / devices.num_replicas)
    batch_size = min(run.settings.batch_size, shard)
    return {
        device: _open_classifiers(device, paths, dataset, batch_size)
        for device in devices.local
    }


def _open_classifiers(
    device: str, paths: list[Path], dataset: ImageDataset, batch_size: int
) -> list[BatchedClassifier]:
    """All models, each on a device as what is measured."""
    with tf.device(device):
        return [
            open_classifier(load_classifier(path), path, dataset, batch_size)
            for path in paths
        ]


def _test_images(settings: AttackSettings, dataset: ImageDataset) -> Examples:
    count = settings.test_images or len(dataset.test)
    return dataset.test.drawn(count, settings.seed)


def _evaluate(
    dataset: ImageDataset,
    classifiers: Mapping[str, list[BatchedClassifier]],
    run: Run[AttackSettings],
) -> Evaluation:
    settings, log = run.settings, run.log
    run.devices.on_chief(lambda: _begin_or_resume(run))
    x, y = _test_images(settings, dataset).unit_arrays()
    crafter = _Crafter(run, classifiers, x, y)
    measured, clean = crafter.classifiers[0], crafter.clean[0]
    log(f"clean accuracy {clean.mean():.2%} of {len(x)} images")
    missing = missing_classes(y, dataset.class_names, "attacked images")
    probed = Probed([], np.zeros(len(x), bool))
    if settings.checks:
        log("checking the model ...")
        norm, epsilon = settings.norm, settings.epsilon
        probed = check_model(measured, x, y, norm, epsilon, settings.seed)
    if missing:
        probed.findings.insert(0, missing)
    for finding in probed.findings:
        log(f"warning: {finding.sentence}")
    crafted = [crafter.craft(*planned) for planned in _plan(settings)]
    return Evaluation(settings, dataset, x, y, clean, measured, crafted, probed)


def _begin_or_resume(run: Run[AttackSettings]) -> None:
    folder = run.workdir / _TRIALS
    if folder.exists():
        run.log(f"Resuming {run.workdir}.")
    folder.mkdir(exist_ok=True)


def _plan(settings: AttackSettings) -> list[tuple[int, str, Radius]]:
    """Returns (index of the model, name of the attack, epsilon) of all that is crafted.

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

    All devices craft, each a shard of the images; each worker measures on its first.
    """

    def __init__(
        self,
        run: Run[AttackSettings],
        classifiers: Mapping[str, list[BatchedClassifier]],
        x: np.ndarray,
        y: np.ndarray,
    ):
        self._run, self._copies, self._x, self._y = run, classifiers, x, y
        self.classifiers = next(iter(classifiers.values()))
        # Of each model (images,), bool: right about the clean images.
        self.clean = [is_right(classifier, x, y) for classifier in self.classifiers]

    def craft(self, source: int, name: str, epsilon: Radius) -> AttackResult:
        """Runs an attack, or what is left of it, and measures its images."""
        devices, paths = self._run.devices, self._paths(source, name, epsilon)
        jobs = {
            device: self._job(device, source, name, epsilon, paths[shard[0]])
            for device, shard in devices.local.items()
        }
        progress = run_sharded(jobs, paths, self._x, devices)
        # A perturbation may correct a model by chance: that is no robustness.
        right = [
            was_right & self._survives(progress, source, index)
            for index, was_right in enumerate(self.clean)
        ]
        crafted = AttackResult(source, name, epsilon, progress, right)
        others = self._run.settings.source_model
        place = f", crafted on {others[source - 1]}" if source else ""
        self._run.log(
            f"{name}, epsilon {epsilon}{place}: accuracy {crafted.accuracy:.2%}"
        )
        return crafted

    def _survives(self, progress: Progress, source: int, index: int) -> np.ndarray:
        """Where a model is right after an attack on another one, or on itself."""
        if index == source:
            # Asked once more, a random model might take back what broke it.
            return progress.survived(len(progress.attacks))
        return is_right(self.classifiers[index], progress.images, self._y)

    def _paths(self, source: int, name: str, epsilon: Radius) -> list[Path]:
        """The files of an attack's shards, each of which its own worker writes."""
        stem = f"{source}_{name}_{str(epsilon).replace('/', 'of')}"
        count = self._run.devices.num_replicas
        ends = [f"_{n}of{count}" for n in range(1, count + 1)] if count > 1 else [""]
        return [self._run.workdir / _TRIALS / f"{stem}{end}.npz" for end in ends]

    def _job(
        self, device: str, source: int, name: str, epsilon: Radius, path: Path
    ) -> AttackJob:
        """A device's shard of an attack."""
        settings = self._run.settings
        evaluation = settings.decisive()
        # The file's name alone would let a renamed one pass for another.
        evaluation["trial"] = [source, name, str(epsilon)]
        if settings.test_images:
            # Earlier versions took the first images.
            evaluation["drawn"] = "evenly"
        # At other radii nothing is crafted for other models.
        transfer = bool(settings.source_model) and epsilon == settings.epsilon
        try:
            return AttackJob(
                self._copies[device][source],
                named_attack(
                    name, settings.norm, epsilon, settings.step_size_at(epsilon)
                ),
                self._x,
                self._y,
                settings.seed,
                path,
                evaluation,
                transfer,
                self._run.devices.local[device],
            )
        except ValueError as error:
            raise UserError(f"{error}. Delete it to run that attack anew.") from None
