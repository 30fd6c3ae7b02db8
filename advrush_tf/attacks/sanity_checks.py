"""Self-checks of an evaluation of robustness: signs that its numbers mislead.

Each check is a function of measurements and returns a `Finding` or None.
`sanity_probes` measures the model for the checks of the model itself.

Source: Carlini et al., arXiv 1902.06705, sections 3 and 5; Pintor et al., arXiv
2106.09947; Croce & Hein, arXiv 2003.01690.
"""

import bisect
import dataclasses
import enum
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from advrush_tf.inputs import are_probabilities
from advrush_tf.statistics import wilson

# Logits of one image may differ by this share of the largest: kernels round.
_ROUNDING = 1e-4
_ZERO_GRADIENTS = 0.1
# What a sound attack may miss by chance, as a share of the images.
_CHANCE = 0.05
# Black-box attacks break a few images more even of a sound model.
_BLACK_BOX = 0.002
_BLACK_BOX_IMAGES = 3
_HALF_WIDTH = 0.03
# Fewer images say nothing about chance.
_ENOUGH = 10
# Classes without images that a sentence names.
_NAMED = 10


class Code(enum.StrEnum):
    """Kinds of findings; the values stay the same in all versions."""

    RANDOM_MODEL = "random_model"
    PROBABILITIES = "probabilities"
    ZERO_GRADIENTS = "zero_gradients"
    BLACK_BOX_WINS = "black_box_wins"
    PROBE_WINS = "probe_wins"
    ACCURACY_OVER_EPSILON = "accuracy_over_epsilon"
    STEPS_DO_NOT_HELP = "steps_do_not_help"
    IMAGES_OUTSIDE_BOX = "images_outside_box"
    FEW_CLASSES = "few_classes"
    FEW_IMAGES = "few_images"
    NOT_FINITE = "not_finite"
    CHANCE = "chance"
    OTHER_RANGE = "other_range"
    MISSING_CLASSES = "missing_classes"


@dataclasses.dataclass(frozen=True)
class Finding:
    """A reason not to trust an evaluation.

    Attributes:
        code: its kind.
        sentence: for the user, with the numbers.
    """

    code: Code
    sentence: str


def random_model(passes: np.ndarray) -> Finding | None:
    """Warns if repeated forward passes give different logits.

    Args:
        passes: (passes, images, classes), logits.
    """
    spread = np.ptp(passes, axis=0).max(-1)
    share = (spread / np.maximum(np.abs(passes).max((0, 2)), 1e-12)).max()
    # So written, NaN is not random.
    if not share > _ROUNDING:
        return None
    changed = (np.ptp(passes.argmax(-1), axis=0) > 0).sum()
    return Finding(
        Code.RANDOM_MODEL,
        f"The model is random: in {len(passes)} passes over the same images, logits "
        f"differ by up to {share:.2g} of the largest and {changed} of "
        f"{passes.shape[1]} predictions change; take autoattack-rand, "
        "which averages gradients.",
    )


def not_finite(logits: np.ndarray, attack: str = "") -> Finding | None:
    """Warns of logits that are NaN or infinite, which count as wrong answers.

    Args:
        logits: (images, classes).
        attack: what was done to the images, "" for nothing.
    """
    bad = ~np.isfinite(logits).all(-1)
    if not bad.any():
        return None
    place = f" under {attack}" if attack else ""
    return Finding(
        Code.NOT_FINITE,
        f"The model gives NaN or infinite logits for {bad.sum()} of {len(bad)} images"
        f"{place}; they count as wrong answers, but no gradient follows from them.",
    )


def not_finite_gradients(gradients: np.ndarray) -> Finding | None:
    """Warns of derivatives that are NaN or infinite, which attacks take for 0.

    Args:
        gradients: (images, height, width, channels).
    """
    bad = ~np.isfinite(gradients).all((1, 2, 3))
    if not bad.any():
        return None
    return Finding(
        Code.NOT_FINITE,
        f"The model's gradient has NaN or infinite entries at {bad.sum()} of {len(bad)}"
        " images; attacks take them for 0 and may miss what they would find without.",
    )


def bad_gradients(attacks: Sequence[str]) -> Finding | None:
    """Warns of attacks that met derivatives that are NaN or infinite.

    Args:
        attacks: their names.
    """
    if not attacks:
        return None
    return Finding(
        Code.NOT_FINITE,
        f"During {', '.join(attacks)} the model's gradient had NaN or infinite "
        "entries; attacks take them for 0 and may miss what they would find without.",
    )


def probabilities(logits: np.ndarray) -> Finding | None:
    """Warns if the outputs look like those of a softmax or a sigmoid.

    Args:
        logits: (images, classes).
    """
    if not are_probabilities(logits):
        return None
    return Finding(
        Code.PROBABILITIES,
        f"The model's outputs look like probabilities, from {logits.min():.2g} to "
        f"{logits.max():.2g} for {len(logits)} images; attack its logits, without the "
        "softmax or sigmoid.",
    )


def chance(answers: np.ndarray, y: np.ndarray, num_classes: int) -> Finding | None:
    """Warns of a model that says the same of all images, or guesses.

    Args:
        answers, y: (images,), the model's classes and the labels; of fewer than 10
            images nothing is said.
        num_classes: of the model.
    """
    right = int((answers == y).sum())
    if len(y) < _ENOUGH:
        return None
    if len(np.unique(y)) > 1 and len(np.unique(answers)) == 1:
        fault = f"gives all {len(y)} images that were tried the class {answers[0]}"
    elif wilson(right, len(y))[0] <= 1 / num_classes:
        fault = (
            f"is right about {right} of {len(y)} images that were tried, hardly more "
            f"than by chance (1 in {num_classes})"
        )
    else:
        return None
    return Finding(
        Code.CHANCE,
        f"The model {fault}: it is not fitted, or expects other images, so that its "
        "robustness means nothing.",
    )


def other_range(right: Mapping[str, int], images: int) -> Finding | None:
    """Warns of a model that is clearly better at images of another range.

    Args:
        right: by range, the images that the model is right about; [0, 1] first.
        images: number of them.
    """
    (_, given), *others = right.items()
    best, most = max(others, key=lambda other: other[1])
    if wilson(most, images)[0] <= wilson(given, images)[1]:
        return None
    return Finding(
        Code.OTHER_RANGE,
        f"The model seems to expect images in {best}: of {images} images in [0, 1] it "
        f"is right about {given}, of the same in {best} about {most}; put a layer that "
        "rescales them before it.",
    )


def missing_classes(
    y: np.ndarray, class_names: Sequence[str], images: str = "images"
) -> Finding | None:
    """Warns of classes without images.

    Args:
        y: (images,), labels.
        class_names: one name a class.
        images: what they are, in the plural.
    """
    missing = [name for label, name in enumerate(class_names) if label not in y]
    if not missing:
        return None
    names = ", ".join(missing[:_NAMED]) + (", ..." if missing[_NAMED:] else "")
    return Finding(
        Code.MISSING_CLASSES,
        f"Among the {len(y)} {images} is none of {len(missing)} of "
        f"{len(class_names)} classes ({names}), of which the results say nothing.",
    )


def zero_gradients(steps: np.ndarray) -> Finding | None:
    """Warns if the attacks' loss has no gradient to follow at a tenth of the images.

    Args:
        steps: (images, height, width, channels), of length 1 in the attack's norm
            where it can follow the gradient.
    """
    # So written, a NaN counts as none.
    none = ~(np.abs(steps).max((1, 2, 3)) > 0)
    if none.mean() <= _ZERO_GRADIENTS:
        return None
    return Finding(
        Code.ZERO_GRADIENTS,
        f"The loss has no gradient that an attack could follow at {none.sum()} of "
        f"{len(none)} images: gradient attacks see nothing there.",
    )


def black_box_wins(
    broken: Mapping[str, np.ndarray], black_box: Collection[str]
) -> Finding | None:
    """Warns if black-box attacks break images that no gradient attack breaks.

    Args:
        broken: of each attack, (images,), bool, the images that it broke; a black-box
            attack was made on its own or after the others.
        black_box: names of the attacks, such as Square, that use no gradients of the
            model; transfer attacks, which use another model's, are such.
    """
    blind = [found for name, found in broken.items() if name in black_box]
    others = [found for name, found in broken.items() if name not in black_box]
    if not blind or not others:
        return None
    more = np.any(blind, 0) & ~np.any(others, 0)
    if more.mean() <= _BLACK_BOX or more.sum() < _BLACK_BOX_IMAGES:
        return None
    return Finding(
        Code.BLACK_BOX_WINS,
        f"Black-box attacks broke {more.sum()} of {len(more)} images that no gradient "
        "attack broke; the model may mask its gradients, and more may be broken than "
        "this evaluation says.",
    )


def probe_wins(robust: np.ndarray, probed: np.ndarray) -> Finding | None:
    """Warns if PGD on the margin breaks images that an evaluation calls robust.

    Args:
        robust: (images,), bool, right before and after all attacks.
        probed: (images,), bool, those that PGD broke in the same ball.
    """
    more = robust & probed
    if not more.any():
        return None
    return Finding(
        Code.PROBE_WINS,
        f"A short PGD on the margin of the logits, made on few images, breaks "
        f"{more.sum()} that no attack of this evaluation broke; the robust accuracy is "
        "too high: add autoattack to the attacks.",
    )


def accuracy_over_epsilon(
    epsilons: Sequence[float], accuracies: Sequence[float]
) -> Finding | None:
    """Warns if PGD does not gain by a larger ball, or fails in a huge one.

    Args:
        epsilons: L-infinity radii in ascending order; in the last ball, any image can
            become grey.
        accuracies: under PGD of each, of images that are right without.
    """
    curve = ", ".join(
        f"{accuracy:.0%} at {epsilon:.3g}"
        for epsilon, accuracy in zip(epsilons, accuracies, strict=True)
    )
    if accuracies[-1] > _CHANCE:
        fault = "is not zero even at the largest epsilon"
    elif max(np.diff(accuracies), default=0) > _CHANCE:
        fault = "rises with epsilon"
    else:
        return None
    return Finding(
        Code.ACCURACY_OVER_EPSILON,
        f"Accuracy under L-infinity PGD {fault} ({curve}); the model may mask its "
        "gradients.",
    )


def rising_curve(
    attack: str, epsilons: Sequence[float], right: Sequence[np.ndarray]
) -> Finding | None:
    """Warns if an attack breaks fewer images in a larger ball.

    Args:
        attack: its name.
        epsilons: in ascending order.
        right: of each epsilon (images,), bool, whether the model is right.
    """
    accuracies = [float(each.mean()) for each in right]
    if max(np.diff(accuracies), default=0) <= _CHANCE:
        return None
    curve = ", ".join(
        f"{accuracy:.0%} at {epsilon:.3g}"
        for epsilon, accuracy in zip(epsilons, accuracies, strict=True)
    )
    return Finding(
        Code.ACCURACY_OVER_EPSILON,
        f"Accuracy under {attack} rises with epsilon ({curve}); the attack is not as "
        "strong as it must be, or the model masks its gradients.",
    )


def steps_do_not_help(
    clean: np.ndarray, one_step: np.ndarray, many_steps: np.ndarray
) -> Finding | None:
    """Warns if one long step of PGD does more than many short ones.

    Compares how many images remain right, and the share that is left of their margins,
    each at most 1.

    Args:
        clean, one_step, many_steps: (images,), the logit of the label minus the best
            other one; more than 0 if `clean`.
    """
    right = [(margins >= 0).mean() for margins in (one_step, many_steps)]
    left = [np.clip(margins / clean, 0, 1).mean() for margins in (one_step, many_steps)]
    if max(right[1] - right[0], left[1] - left[0]) <= _CHANCE:
        return None
    return Finding(
        Code.STEPS_DO_NOT_HELP,
        f"One step of PGD leaves {right[0]:.0%} of {len(clean)} images right and "
        f"{left[0]:.0%} of their margins, many steps leave {right[1]:.0%} and "
        f"{left[1]:.0%}; the model may mask its gradients.",
    )


def images_outside_box(low: float, high: float) -> Finding | None:
    """Warns of images that are not in [0, 1], given their extreme values."""
    if low >= 0 and high <= 1:
        return None
    return Finding(
        Code.IMAGES_OUTSIDE_BOX,
        f"Images range from {low:.3g} to {high:.3g}, but attacks clip to [0, 1]; "
        "scale the images and let the model normalise them.",
    )


def few_classes(num_classes: int) -> Finding | None:
    """Warns of the targeted DLR loss where there are fewer than four logits."""
    if num_classes >= 4:
        return None
    return Finding(
        Code.FEW_CLASSES,
        f"The targeted DLR loss needs 4 classes and the model has {num_classes}; a "
        "simpler one took its place, so do not compare with other evaluations.",
    )


def few_images(accuracy: float, total: int) -> Finding | None:
    """Warns if Wilson's 95 % interval of an accuracy is wider than 3 points each way.

    Args:
        accuracy: from 0 to 1, a share of `total`.
        total: images, at least 1.
    """

    def half_width(images: int) -> float:
        low, high = wilson(round(accuracy * images), images)
        return (high - low) / 2

    if half_width(total) <= _HALF_WIDTH:
        return None
    # The half width falls with the images and, at worst, suffices below 1,100.
    enough = bisect.bisect_left(
        range(1100), -_HALF_WIDTH, lo=total, key=lambda images: -half_width(images)
    )
    return Finding(
        Code.FEW_IMAGES,
        f"An accuracy of {accuracy:.1%} on {total} images is known to "
        f"{100 * half_width(total):.1f} percentage points only (95 %); {enough} "
        f"images would give {100 * _HALF_WIDTH:.0f} points.",
    )


def check_results(
    robust: np.ndarray,
    broken: Mapping[str, np.ndarray],
    black_box: Collection[str],
    num_classes: int,
    targeted_dlr: bool,
) -> list[Finding]:
    """Checks the results of an evaluation.

    Args:
        robust: (images,), bool, the images that the model got right and no attack
            broke.
        broken, black_box: see `black_box_wins`.
        num_classes: of the model.
        targeted_dlr: whether an attack used that loss.
    """
    findings = [
        black_box_wins(broken, black_box),
        few_classes(num_classes) if targeted_dlr else None,
        few_images(float(robust.mean()), len(robust)),
    ]
    return [finding for finding in findings if finding]
