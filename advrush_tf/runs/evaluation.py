"""The results of an evaluation of robustness."""

import contextlib
import dataclasses
import importlib.metadata
from functools import cached_property
from typing import Any

import numpy as np

from advrush_tf.attacks.autoattack import verdicts_of
from advrush_tf.attacks.base import BatchedClassifier
from advrush_tf.attacks.catalogue import BLACK_BOX, named_attack
from advrush_tf.attacks.geometry import Radius
from advrush_tf.attacks.sanity_checks import (
    Finding,
    bad_gradients,
    check_results,
    not_finite,
    probe_wins,
    rising_curve,
)
from advrush_tf.attacks.sanity_probes import Probed
from advrush_tf.attacks.series import Progress
from advrush_tf.data.dataset import ImageDataset
from advrush_tf.files import json_copy
from advrush_tf.runs.attack_settings import AttackSettings
from advrush_tf.statistics import accuracy_per_class, wilson
from advrush_tf.version import __version__

_LIBRARIES = ("tensorflow", "keras", "cleverhans", "numpy", "tensorflow-datasets")


@dataclasses.dataclass(frozen=True, eq=False)
class AttackResult:
    """The adversarial images of one attack and each model's correctness on them.

    Attributes:
        source: index of the model that they were crafted on; 0 is the measured one.
        attack: name of the attack.
        epsilon: radius of the ball.
        progress: outcome of the finished attack.
        right: for each model (images,), bool, correct before and after the attack.
    """

    source: int
    attack: str
    epsilon: Radius
    progress: Progress
    right: list[np.ndarray]

    @property
    def accuracy(self) -> float:
        """Accuracy of the measured model."""
        return float(self.right[0].mean())


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """The outcome of an evaluation of robustness.

    Attributes:
        settings: settings of the evaluation.
        dataset: source of the images.
        x, y: the images, float32 in [0, 1], and their labels.
        clean: (images,), bool, where the model is correct before any attack.
        classifier: the measured model.
        crafted: result of each attack.
        probed: what was found about the model itself.
    """

    settings: AttackSettings
    dataset: ImageDataset
    x: np.ndarray
    y: np.ndarray
    clean: np.ndarray
    classifier: BatchedClassifier
    crafted: list[AttackResult]
    probed: Probed

    @cached_property
    def attacked(self) -> list[AttackResult]:
        """The results of the attacks with the evaluation's epsilon."""
        return [c for c in self.crafted if c.epsilon == self.settings.epsilon]

    @cached_property
    def robust(self) -> np.ndarray:
        """(images,), bool: correct before and after all attacks inside the ball."""
        epsilon = self.settings.epsilon
        inside = [c.right[0] for c in self.crafted if c.epsilon <= epsilon]
        return np.all([self.clean, *inside], 0)

    @cached_property
    def findings(self) -> list[Finding]:
        """The reasons not to trust the evaluation."""
        broken, blind = self._broken_by_attack()
        members = {name for c in self.attacked for name in c.progress.attacks}
        classes = self.classifier.num_classes
        outcome = check_results(
            self.robust, broken, blind, classes, "apgd-t" in members
        )
        met = [c.attack for c in self.crafted if c.progress.bad_gradients]
        doubts = [
            bad_gradients(list(dict.fromkeys(met))),
            probe_wins(self.robust, self.probed.broken),
            *(not_finite(self._logits(c), c.attack) for c in self._own),
            *(rising_curve(name, *self.curve(name)) for name in self._curves()),
        ]
        return [*self.probed.findings, *outcome, *filter(None, doubts)]

    @property
    def _own(self) -> list[AttackResult]:
        return [c for c in self.attacked if not c.source]

    def _logits(self, crafted: AttackResult) -> np.ndarray:
        """Of the images that an attack broke, (images, classes)."""
        broken = crafted.progress.broken_by >= 0
        return self.classifier.predict(crafted.progress.images[broken])

    def _curves(self) -> tuple[str, ...]:
        return self.settings.attacks if self.settings.epsilons else ()

    def curve(self, attack: str) -> tuple[list[float], list[np.ndarray]]:
        """Radii of an attack's robustness curve, from 0 on, and correctness there."""
        own = {(c.attack, c.epsilon): c.right[0] for c in self.crafted if not c.source}
        radii = self.settings.curve
        return [0.0, *radii], [self.clean, *(own[attack, radius] for radius in radii)]

    def _broken_by_attack(self) -> tuple[dict[str, np.ndarray], set[str]]:
        """The images that each attack broke, and the names of the black-box attacks."""
        broken, blind = {}, set()
        for crafted in self.attacked:
            if crafted.source:
                name = f"{crafted.attack} on model {crafted.source}"
                broken[name] = self.clean & ~crafted.right[0]
                blind.add(name)
                continue
            for index, member in enumerate(crafted.progress.attacks):
                # One step is no measure of what gradients can find.
                if crafted.attack == "fgsm":
                    continue
                name = f"{crafted.attack}: {member}"
                broken[name] = crafted.progress.broken_by == index
                if member in BLACK_BOX:
                    blind.add(name)
        return broken, blind


def as_json(evaluated: Evaluation) -> dict[str, Any]:
    """Returns the outcome of an evaluation, in JSON's types."""
    settings, labels = evaluated.settings, evaluated.y
    classes = accuracy_per_class(
        labels, evaluated.robust, evaluated.classifier.num_classes
    )
    results = {
        "versions": {"advrush_tf": __version__, **_versions()},
        "settings": settings.to_dict(),
        "dataset": evaluated.dataset.name,
        "split": evaluated.dataset.test_split,
        "images": len(labels),
        "norm": settings.norm,
        "epsilon": _radius(settings.epsilon),
        "clean": _share(evaluated.clean),
        "robust": {
            **_share(evaluated.robust),
            "per_class": dict(zip(evaluated.dataset.class_names, classes, strict=True)),
        },
        "attacks": [_attack(evaluated, c) for c in evaluated.crafted],
        "transfer": transfer(evaluated),
        "warnings": [dataclasses.asdict(finding) for finding in evaluated.findings],
        "seconds": sum(c.progress.seconds for c in evaluated.crafted),
    }
    return json_copy(results)


def _versions() -> dict[str, str]:
    installed = {}
    for name in _LIBRARIES:
        # CleverHans may be missing.
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed[name] = importlib.metadata.version(name)
    return installed


def _radius(epsilon: Radius) -> dict[str, Any]:
    return {"given": str(epsilon), "value": epsilon}


def _share(right: np.ndarray) -> dict[str, Any]:
    """Returns an accuracy and its 95 % Wilson interval."""
    interval = wilson(int(right.sum()), len(right))
    return {"accuracy": float(right.mean()), "interval": interval}


def _attack(evaluated: Evaluation, crafted: AttackResult) -> dict[str, Any]:
    progress, settings = crafted.progress, evaluated.settings
    points = verdicts_of(progress)
    models = (settings.model, *settings.source_model)
    return {
        "attack": crafted.attack,
        "crafted_on": models[crafted.source],
        "epsilon": _radius(crafted.epsilon),
        "step_size": _step_size(settings, crafted),
        **_share(crafted.right[0]),
        # On the model that was attacked.
        "members": [
            {
                "name": name,
                **_share(progress.survived(index + 1)),
                "broken": int((progress.broken_by == index).sum()),
            }
            for index, name in enumerate(progress.attacks)
        ],
        "broken_by": points.broken_by,
        "seconds": progress.seconds,
    }


def _step_size(settings: AttackSettings, crafted: AttackResult) -> float | None:
    """Returns the size of an attack's steps, None where they have no fixed one."""
    radius = crafted.epsilon
    given = settings.step_size_at(radius)
    (first, *_) = named_attack(crafted.attack, settings.norm, radius, given).values()
    return getattr(first, "used_step_size", None)


def transfer(evaluated: Evaluation) -> dict[str, Any] | None:
    """Returns, by attack, accuracies with a row a source and a column a target.

    None for a single model.
    """
    settings = evaluated.settings
    if not settings.source_model:
        return None
    return {
        "models": (settings.model, *settings.source_model),
        "matrices": {
            name: [
                [float(right.mean()) for right in crafted.right]
                for crafted in evaluated.attacked
                if crafted.attack == name
            ]
            for name in settings.attacks
        },
    }
