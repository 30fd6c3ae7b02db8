"""AutoAttack: a fixed series of attacks without a number to tune.

Source: Croce & Hein, arXiv 2003.01690.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from advrush_tf.attacks.apgd import APGD, Loss
from advrush_tf.attacks.base import Attack, open_labelled, warn_of_bad_gradients
from advrush_tf.attacks.fab import FAB
from advrush_tf.attacks.geometry import Norm, usual_radius
from advrush_tf.attacks.series import (
    CLEAN,
    Progress,
    run_series,
    with_bar,
    without_bar,
)
from advrush_tf.attacks.square import Square
from advrush_tf.errors import Choice


class Version(Choice):
    """A published series: `rand` is for models that are random by intent."""

    STANDARD = "standard"
    PLUS = "plus"
    RAND = "rand"


class Member(Choice):
    """An attack of the series."""

    APGD_CE = "apgd-ce"
    APGD_DLR = "apgd-dlr"
    APGD_T = "apgd-t"
    FAB = "fab"
    FAB_T = "fab-t"
    SQUARE = "square"


_SERIES = {
    Version.STANDARD: (Member.APGD_CE, Member.APGD_T, Member.FAB_T, Member.SQUARE),
    Version.PLUS: (
        Member.APGD_CE,
        Member.APGD_DLR,
        Member.FAB,
        Member.SQUARE,
        Member.APGD_T,
        Member.FAB_T,
    ),
    Version.RAND: (Member.APGD_CE, Member.APGD_DLR),
}
_PLUS_RESTARTS = 5
_RAND_GRADIENTS = 20


def make_members(
    norm: Norm | str,
    epsilon: float,
    version: Version | str = Version.STANDARD,
    members: Sequence[Member | str] | None = None,
) -> dict[str, Attack]:
    """The attacks of a series, with their published numbers.

    Args:
        norm: of the ball.
        epsilon: its radius, in [0, 1] units.
        version: `standard`: APGD-CE, APGD-T, FAB-T, Square, each with one restart;
            `plus`: also APGD-DLR and untargeted FAB, of each and of APGD-CE 5
            restarts; `rand`: APGD-CE and APGD-DLR, each step with 20 gradients.
        members: the attacks to run in place of the version's, in this order.

    Returns:
        The attacks by name.

    Raises:
        ValueError: an unknown name or a number out of range.
    """
    version, norm = Version(version), Norm(norm)
    chosen = _SERIES[version] if members is None else tuple(map(Member, members))
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"members must name each attack once; they are {members}")
    restarts = _PLUS_RESTARTS if version is Version.PLUS else 1
    eot = _RAND_GRADIENTS if version is Version.RAND else 1
    made: dict[Member, Attack] = {
        Member.APGD_CE: APGD(norm, epsilon, Loss.CE, restarts=restarts, eot=eot),
        Member.APGD_DLR: APGD(norm, epsilon, Loss.DLR, restarts=restarts, eot=eot),
        Member.APGD_T: APGD(norm, epsilon, Loss.TARGETED_DLR, eot=eot),
        Member.FAB: FAB(norm, epsilon, targeted=False, restarts=restarts),
        Member.FAB_T: FAB(norm, epsilon),
        Member.SQUARE: Square(norm, epsilon),
    }
    return {member.value: made[member] for member in chosen}


@dataclasses.dataclass(frozen=True, eq=False)
class Verdicts:
    """The verdict on each image.

    Attributes:
        robust: (images,), bool, right before and after all attacks.
        broken_by: (images,), the attack that broke it, "clean" if the model was wrong
            before any attack, None if robust.
        accuracy_after: by name, in order: "clean" and each attack.
    """

    robust: np.ndarray
    broken_by: tuple[str | None, ...]
    accuracy_after: dict[str, float]


class Evaluation(NamedTuple):
    """Adversarial images, as given where robust, and the verdict on each image."""

    images: np.ndarray
    verdicts: Verdicts


class AutoAttack:
    """AutoAttack on a classifier.

    Args:
        model_fn: a Keras classifier, or a function of TensorFlow operations, from
            images in [0, 1] to logits.
        norm: "Linf" or "L2".
        epsilon: radius of the ball, in [0, 1] units; 8/255 by default, but to be given
            for L2.
        version: "standard", "plus" or "rand", see `make_members`.
        seed: of all random numbers, at least 0.
        members: attacks to run in place of the version's, by name.
        batch_size: images at a time.

    Raises:
        ValueError: an unknown name or a number out of range.
    """

    def __init__(
        self,
        model_fn: Any,
        norm: Norm | str = Norm.LINF,
        epsilon: float | None = None,
        version: Version | str = Version.STANDARD,
        seed: int = 0,
        members: Sequence[Member | str] | None = None,
        batch_size: int = 128,
    ):
        if seed < 0 or batch_size < 1:
            raise ValueError(
                "seed must be 0 or more and batch_size 1 or more, not "
                f"{seed} and {batch_size}"
            )
        radius = usual_radius(Norm(norm)) if epsilon is None else epsilon
        self.members = make_members(norm, radius, version, members)
        self._model_fn, self._seed, self._batch_size = model_fn, seed, batch_size

    def run(self, x: np.ndarray, y: np.ndarray, verbose: bool = False) -> Evaluation:
        """Attacks images, each attack only those that survived the ones before.

        Warns of a model that cannot be attacked as it is, see `open_labelled`, and of
        gradients that are not finite.

        Args:
            x: (images, height, width, channels), floats in [0, 1].
            y: labels, see `advrush_tf.inputs.as_labels`.
            verbose: whether to show each attack's progress.

        Raises:
            ValueError: images or labels are misshapen or out of range, or the model
                does not give logits of them.
        """
        classifier, x, y = open_labelled(self._model_fn, x, y, self._batch_size)
        progress = Progress(x, list(self.members))
        watch = with_bar if verbose else without_bar
        run_series(classifier, self.members, x, y, self._seed, progress, watch=watch)
        warn_of_bad_gradients(classifier)
        return Evaluation(progress.images, verdicts_of(progress))


def verdicts_of(progress: Progress) -> Verdicts:
    """Returns the verdict of a finished series on each image."""
    names: dict[int, str | None] = dict(enumerate(progress.attacks))
    names[CLEAN] = "clean"
    accuracies = {
        name: float(progress.survived(count).mean())
        for count, name in enumerate(("clean", *progress.attacks))
    }
    return Verdicts(
        progress.survived(len(progress.attacks)),
        tuple(names.get(int(cause)) for cause in progress.broken_by),
        accuracies,
    )
