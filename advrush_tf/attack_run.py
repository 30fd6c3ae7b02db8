"""A whole evaluation of robustness: from settings to results in a folder, resumable."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from advrush_tf.attack_report import RESULTS, tell, write_report
from advrush_tf.attack_results import Crafted, Evaluated
from advrush_tf.attack_settings import AttackSettings
from advrush_tf.attacks.cascade import is_right
from advrush_tf.attacks.catalogue import named_attack
from advrush_tf.attacks.probes import probe
from advrush_tf.attacks.trials import Trial
from advrush_tf.attacks.victim import Victim
from advrush_tf.data import ImageDataset, load_dataset
from advrush_tf.errors import UserError
from advrush_tf.examples import Examples
from advrush_tf.model_files import load_classifier, open_victim, sha256
from advrush_tf.running import print_line, told_again, write_failure
from advrush_tf.settings import record_settings

_TRIALS = "trials"


def run_attack(
    settings: AttackSettings,
    workdir: str | Path,
    data_dir: str | None = None,
    say: Callable[[str], None] = print_line,
) -> dict[str, Any]:
    """Measures how robust a model is, or goes on with what `workdir` holds.

    Args:
        settings: of the evaluation.
        workdir: folder that receives settings.json, results.json, results.md, figures,
            tensorboard/ and trials/, from which an interrupted evaluation goes on.
        data_dir: tfds' folder of prepared data sets.
        say: receives the lines for the user.

    Returns:
        What results.json holds.

    Raises:
        UserError: the input is at fault; one clear line.
    """
    workdir = Path(workdir)
    dataset = load_dataset(settings.dataset, data_dir, settings.image_size)
    paths = [Path(path) for path in (settings.model, *settings.source_model)]
    batch_size = min(settings.batch_size, len(_test_images(settings, dataset)))
    victims = [
        open_victim(load_classifier(path), path, dataset, batch_size) for path in paths
    ]
    settings = dataclasses.replace(settings, sha256=tuple(map(sha256, paths)))
    record_settings(settings, workdir)
    try:
        if (finished := workdir / RESULTS).exists():
            return told_again(finished, tell, say, "evaluation")
        evaluated = _evaluate(settings, dataset, victims, workdir, say)
        return write_report(evaluated, workdir, say)
    except OSError as error:
        raise UserError(write_failure(workdir, error)) from None


def _test_images(settings: AttackSettings, dataset: ImageDataset) -> Examples:
    return dataset.test.first(settings.test_images or len(dataset.test))


def _evaluate(
    settings: AttackSettings,
    dataset: ImageDataset,
    victims: list[Victim],
    workdir: Path,
    say: Callable[[str], None],
) -> Evaluated:
    if (workdir / _TRIALS).exists():
        say(f"Resuming {workdir}.")
    x, y = _test_images(settings, dataset).unit_arrays()
    crafter = _Crafter(settings, victims, x, y, workdir / _TRIALS, say)
    clean = crafter.clean[0]
    say(f"clean accuracy {clean.mean():.2%} of {len(x)} images")
    doubts = []
    if settings.checks:
        say("checking the model ...")
        radius = settings.radius(settings.epsilon)
        doubts = probe(victims[0], x, y, settings.norm, radius, settings.seed)
    for doubt in doubts:
        say(f"warning: {doubt.sentence}")
    crafted = [crafter.craft(*planned) for planned in _plan(settings)]
    return Evaluated(settings, dataset, x, y, clean, victims[0], crafted, doubts)


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
    """Crafts on any of the models and measures what it made on all of them."""

    def __init__(
        self,
        settings: AttackSettings,
        victims: list[Victim],
        x: np.ndarray,
        y: np.ndarray,
        folder: Path,
        say: Callable[[str], None],
    ):
        self._settings, self._victims, self._x, self._y = settings, victims, x, y
        self._folder, self._say = folder, say
        # Of each model (images,), bool: right about the clean images.
        self.clean = [is_right(victim, x, y) for victim in victims]

    def craft(self, source: int, name: str, epsilon: str) -> Crafted:
        """Runs a trial, or what is left of it, and measures its images."""
        ledger = self._trial(source, name, epsilon).run()
        # Crafting may by chance mend an image that a model was wrong about.
        right = [
            was_right & is_right(victim, ledger.images, self._y)
            for victim, was_right in zip(self._victims, self.clean, strict=True)
        ]
        crafted = Crafted(source, name, epsilon, ledger, right)
        others = self._settings.source_model
        place = f", crafted on {others[source - 1]}" if source else ""
        self._say(f"{name}, epsilon {epsilon}{place}: accuracy {crafted.accuracy:.2%}")
        return crafted

    def _trial(self, source: int, name: str, epsilon: str) -> Trial:
        settings = self._settings
        attacks = named_attack(name, settings.norm, settings.radius(epsilon))
        # At other radii nothing is crafted for other models.
        transfer = bool(settings.source_model) and epsilon == settings.epsilon
        self._folder.mkdir(exist_ok=True)
        path = self._folder / f"{source}_{name}_{epsilon.replace('/', 'of')}.npz"
        images, victim = (self._x, self._y), self._victims[source]
        try:
            return Trial(victim, attacks, *images, settings.seed, path, transfer)
        except ValueError as error:
            raise UserError(f"{error}. Delete it to run that attack anew.") from None
