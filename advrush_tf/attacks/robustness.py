"""A whole evaluation of a model's robustness in one call, with its self-checks."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from advrush_tf.attacks.base import open_labelled
from advrush_tf.attacks.catalogue import BLACK_BOX, named_attack
from advrush_tf.attacks.geometry import Norm, Radius, usual_radius
from advrush_tf.attacks.sanity_checks import (
    bad_gradients,
    check_results,
    missing_classes,
    not_finite,
    probe_wins,
)
from advrush_tf.attacks.sanity_probes import check_model
from advrush_tf.attacks.series import Progress, run_series, with_bar, without_bar
from advrush_tf.statistics import wilson


class Accuracy(NamedTuple):
    """A share of images, and its 95 % Wilson interval."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True, eq=False)
class Robustness:
    """The robustness of a model, as far as an attack could find.

    Attributes:
        accuracies: by name, in order: "clean" and after each attack.
        robust: (images,), bool, right before and after all attacks.
        images: as given where robust, else adversarial.
        warnings: reasons not to trust the numbers, a sentence each.
    """

    accuracies: dict[str, Accuracy]
    robust: np.ndarray
    images: np.ndarray
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        lines = [
            f"{name}: {accuracy.value:.2%} ({accuracy.low:.2%} to {accuracy.high:.2%})"
            for name, accuracy in self.accuracies.items()
        ]
        return "\n".join([*lines, *(f"warning: {text}" for text in self.warnings)])


def evaluate_robustness(
    model: Any,
    x: Any,
    y: Any,
    epsilon: float | str | None = None,
    norm: Norm | str = Norm.LINF,
    attack: str = "autoattack",
    seed: int = 0,
    batch_size: int = 128,
    verbose: bool = False,
) -> Robustness:
    """Measures a model's robustness, and checks whether to believe the numbers.

    Args:
        model: a Keras classifier, or a function of TensorFlow operations, from images
            in [0, 1] to logits.
        x: (images, height, width, channels), floats in [0, 1].
        y: labels, see `advrush_tf.inputs.as_labels`.
        epsilon: radius of the ball, in [0, 1] units; 8/255 by default, but to be given
            for L2.
        norm: "Linf" or "L2".
        attack: see `catalogue.named_attack`.
        seed: of all random numbers, at least 0.
        batch_size: images at a time.
        verbose: whether to show each attack's progress.

    Raises:
        ValueError: images or labels are misshapen or out of range, the model does not
            give logits of them, there is no such attack, or a number is out of range.
    """
    norm = Norm(norm)
    radius = usual_radius(norm) if epsilon is None else Radius(epsilon)
    attacks = named_attack(attack, norm, radius)
    classifier, x, y = open_labelled(model, x, y, batch_size)
    probed = check_model(classifier, x, y, norm, radius, seed)
    progress = Progress(x, list(attacks))
    watch = with_bar if verbose else without_bar
    run_series(classifier, attacks, x, y, seed, progress, watch=watch)
    survived = [progress.survived(count) for count in range(len(attacks) + 1)]
    robust = survived[-1]
    broken = {name: progress.broken_by == n for n, name in enumerate(attacks)}
    findings = [
        missing_classes(y, [str(n) for n in range(classifier.num_classes)]),
        *probed.findings,
        *check_results(
            robust,
            broken,
            BLACK_BOX & broken.keys(),
            classifier.num_classes,
            "apgd-t" in attacks,
        ),
        probe_wins(robust, probed.broken),
        not_finite(
            classifier.predict(progress.images[progress.broken_by >= 0]), attack
        ),
        bad_gradients([attack] if progress.bad_gradients else []),
    ]
    accuracies = {
        name: Accuracy(float(kept.mean()), *wilson(int(kept.sum()), len(kept)))
        for name, kept in zip(("clean", *attacks), survived, strict=True)
    }
    return Robustness(
        accuracies,
        robust,
        progress.images,
        tuple(finding.sentence for finding in findings if finding),
    )
