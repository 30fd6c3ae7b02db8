"""Attacks one after the other, each on the images that survived those before."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from advrush_tf.attacks.base import Attack, BatchedClassifier, Outcome
from advrush_tf.files import replacing

# In `Progress.broken_by`: by no attack so far, and wrong before any attack.
ROBUST, CLEAN = -1, -2


def is_right(
    classifier: BatchedClassifier, images: np.ndarray, y: np.ndarray
) -> np.ndarray:
    """Whether the model gives each image its label: what every accuracy is made of.

    Args:
        classifier: the model.
        images: (images, height, width, channels), clean or adversarial, in [0, 1].
        y: (images,), integer labels.

    Returns:
        (images,), bool.
    """
    logits = classifier.predict(images)
    return (np.argmax(logits, -1) == y) & np.isfinite(logits).all(-1)


class Progress:
    """What a cascade has done: each image's adversarial form and what broke it.

    Args:
        x: (images, height, width, channels), the images as they were given.
        attacks: names of the attacks, in order.
        evaluation: what the ledger is part of, as JSON types.

    Attributes:
        images: as `x`, what the attacks made of them.
        broken_by: (images,), the place of the attack in `attacks`, ROBUST or CLEAN.
        done: (attacks, images), whether that attack is through with that image.
        finished: how many attacks are through with all images; -1 before the clean
            images were looked at.
        seconds: wall time, without what was lost by interruptions.
    """

    def __init__(
        self,
        x: np.ndarray,
        attacks: Sequence[str],
        evaluation: Mapping[str, Any] | None = None,
    ):
        self.attacks, self.evaluation = tuple(attacks), dict(evaluation or {})
        self.images = np.array(x, np.float32)
        self.broken_by = np.full(len(x), ROBUST, np.int16)
        self.done = np.zeros((len(attacks), len(x)), bool)
        self.finished = -1
        self.seconds = 0.0

    def note(self, attack: int, outcome: Outcome) -> None:
        """Keeps what an attack made of an image: the first one, or what broke it."""
        if outcome.broken or attack == 0:
            self.images[outcome.row] = outcome.image
        self.done[attack, outcome.row] = True

    def settle(self, right: np.ndarray) -> None:
        """Ends an attack, or the look at the clean images.

        Args:
            right: (images,), whether the model is right about the images as they are.
        """
        cause = CLEAN if self.finished < 0 else self.finished
        self.broken_by[(self.broken_by == ROBUST) & ~right] = cause
        self.finished += 1

    def survived(self, attacks: int) -> np.ndarray:
        """(images,), right on the clean image and after the first `attacks` attacks."""
        broken = (self.broken_by >= 0) & (self.broken_by < attacks)
        return ~broken & (self.broken_by != CLEAN)

    def take(self, rows: slice, share: "Progress") -> None:
        """Takes over what a finished cascade did to these rows of the images.

        The shares' cascades ran at the same time: it took as long as the longest.
        """
        self.images[rows], self.broken_by[rows] = share.images, share.broken_by
        self.done[:, rows] = share.done
        self.finished = share.finished
        self.seconds = max(self.seconds, share.seconds)

    def save(self, path: Path) -> None:
        """Writes the ledger in one step.

        Raises:
            OSError: it could not be written; an earlier one is untouched.
        """
        names = ("attacks", "evaluation", "finished", "seconds")
        notes = json.dumps({name: getattr(self, name) for name in names})
        with replacing(path) as file:
            np.savez(
                file,
                images=self.images,
                broken_by=self.broken_by,
                done=self.done,
                notes=np.asarray(notes),
            )

    def restore(self, path: Path | BinaryIO) -> None:
        """Takes over a saved ledger of the same images and attacks.

        Raises:
            ValueError: it is damaged or of another evaluation.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in ("images", "broken_by", "done")}
                notes = json.loads(file["notes"].item())
            whose = tuple(notes["attacks"]), notes["evaluation"]
            finished, seconds = int(notes["finished"]), float(notes["seconds"])
        except Exception as error:  # A damaged archive raises nearly everything.
            raise ValueError(f"{path} is damaged ({type(error).__name__})") from None
        same = all(getattr(self, n).shape == a.shape for n, a in arrays.items())
        if not same or whose != (self.attacks, self.evaluation):
            raise ValueError(f"{path} belongs to another evaluation")
        vars(self).update(arrays, finished=finished, seconds=seconds)


def run_series(
    classifier: BatchedClassifier,
    attacks: Mapping[str, Attack],
    x: np.ndarray,
    y: np.ndarray,
    seed: int,
    ledger: Progress,
    all_images: bool = False,
    numbers: np.ndarray | None = None,
    watch: Callable[[str, int, Any], Any] = lambda name, total, outcomes: outcomes,
) -> None:
    """Runs attacks in order, from where the ledger stands, on what still survives.

    Every image's outcome depends on the seed and its number alone, so that a cascade
    that was interrupted ends as one that was not. What an attack says it broke counts
    only if the model, asked again, is wrong.

    Args:
        classifier: the model.
        attacks: by name, in order.
        x: (images, height, width, channels), float32 in [0, 1].
        y: (images,), integer labels.
        seed: of all random numbers.
        ledger: of these images and attacks; it is updated.
        all_images: whether the first attack also gets the images that the model is
            wrong about: for what other models make of them.
        numbers: (images,), those of the images in their data set, see
            `Attack.outcomes`; by default 0, 1, 2, ...
        watch: given an attack's name, its number of images and its outcomes, gives
            the outcomes on: for progress bars, and to save the ledger meanwhile.
    """
    numbers = np.arange(len(x)) if numbers is None else numbers
    if ledger.finished < 0:
        ledger.settle(is_right(classifier, ledger.images, y))
    for place, (name, attack) in enumerate(attacks.items()):
        if place < ledger.finished:
            continue
        attacked = ledger.broken_by == ROBUST
        if all_images and place == 0:
            attacked |= ledger.broken_by == CLEAN
        rows = np.flatnonzero(attacked & ~ledger.done[place])
        outcomes = attack.outcomes(classifier, x[rows], y[rows], seed, numbers[rows])
        for outcome in watch(name, len(rows), outcomes):
            ledger.note(place, outcome._replace(row=rows[outcome.row]))
        ledger.settle(is_right(classifier, ledger.images, y))
