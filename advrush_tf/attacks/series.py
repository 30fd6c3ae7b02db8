"""Attacks one after the other, each on the images that survived those before."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from advrush_tf.attacks.base import Attack, BatchedClassifier, Outcome, is_right
from advrush_tf.files import parse_json, read_arrays, write_arrays

# In `Progress.broken_by`: by no attack so far, and wrong before any attack.
ROBUST, CLEAN = -1, -2


class Progress:
    """The state of a series: adversarial images and the attacks that broke them.

    Args:
        x: (images, height, width, channels), the given images.
        attacks: names of the attacks, in order.
        evaluation: description of the evaluation, of JSON types; saved alongside.

    Attributes:
        images: as `x`, after the attacks so far.
        broken_by: (images,), the index of the attack in `attacks`, ROBUST or CLEAN.
        done: (attacks, images), whether that attack is through with that image.
        finished: how many attacks are through with all images; -1 before the clean
            images were looked at.
        seconds: wall time, without the time lost by interruptions.
        bad_gradients: how many batches of gradients had NaN or infinite entries.
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
        self.bad_gradients = 0

    def note(self, attack: int, outcome: Outcome) -> None:
        """Records an outcome, with its image if adversarial or the first attack's."""
        if outcome.broken or attack == 0:
            self.images[outcome.index] = outcome.image
        self.done[attack, outcome.index] = True

    def settle(self, right: np.ndarray) -> None:
        """Ends an attack, or the look at the clean images.

        Args:
            right: (images,), whether the model is right about the present images.
        """
        cause = CLEAN if self.finished < 0 else self.finished
        self.broken_by[(self.broken_by == ROBUST) & ~right] = cause
        self.finished += 1

    def survived(self, attacks: int) -> np.ndarray:
        """(images,), right on the clean image and after the first `attacks` attacks."""
        broken = (self.broken_by >= 0) & (self.broken_by < attacks)
        return ~broken & (self.broken_by != CLEAN)

    def take(self, indices: slice, shard: "Progress") -> None:
        """Takes over the results of a finished series on these images.

        The series ran at the same time: together they took as long as the longest.
        """
        self.images[indices], self.broken_by[indices] = shard.images, shard.broken_by
        self.done[:, indices] = shard.done
        self.finished = shard.finished
        self.seconds = max(self.seconds, shard.seconds)
        self.bad_gradients += shard.bad_gradients

    def save(self, path: Path) -> None:
        """Writes the state in one step.

        Raises:
            OSError: it could not be written; an earlier one is untouched.
        """
        names = ("attacks", "evaluation", "finished", "seconds", "bad_gradients")
        metadata = json.dumps({name: getattr(self, name) for name in names})
        write_arrays(
            path,
            images=self.images,
            broken_by=self.broken_by,
            done=self.done,
            # The name in files of all versions.
            notes=np.asarray(metadata),
        )

    def restore(self, path: Path) -> None:
        """Takes over a saved state of the same images and attacks.

        Raises:
            OSError: it cannot be read.
            ValueError: it is damaged or of another evaluation.
        """
        try:
            saved = read_arrays(path)
            arrays = {name: saved[name] for name in ("images", "broken_by", "done")}
            metadata = parse_json(saved["notes"].item())
            identity = tuple(metadata["attacks"]), metadata["evaluation"]
            numbers = {n: metadata[n] for n in ("finished", "seconds", "bad_gradients")}
            for name, value in (arrays | numbers).items():
                if _kind(value) != _kind(getattr(self, name)):
                    raise ValueError(f"{name} is of another type")
        except (ValueError, LookupError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error})") from None
        same = all(getattr(self, n).shape == a.shape for n, a in arrays.items())
        if not same or identity != (self.attacks, self.evaluation):
            raise ValueError(f"{path} belongs to another evaluation or attack")
        vars(self).update(arrays, **numbers)


def _kind(value: Any) -> Any:
    return getattr(value, "dtype", type(value))


Watch = Callable[[str, int, Iterable[Outcome]], Iterable[Outcome]]


def without_bar(name: str, total: int, outcomes: Iterable[Outcome]):
    """Passes the outcomes of an attack on."""
    return outcomes


def with_bar(name: str, total: int, outcomes: Iterable[Outcome]):
    """Passes the outcomes of an attack on, and shows its progress as Keras does."""
    print(f"{name} on {total} images")
    bar = keras.utils.Progbar(total, unit_name="image")
    for outcome in outcomes:
        yield outcome
        bar.add(1, [("broken", float(outcome.broken))])


def run_series(
    classifier: BatchedClassifier,
    attacks: Mapping[str, Attack],
    x: np.ndarray,
    y: np.ndarray,
    seed: int,
    progress: Progress,
    all_images: bool = False,
    indices: np.ndarray | None = None,
    watch: Watch = without_bar,
) -> None:
    """Runs attacks in order, from the progress made so far, on the surviving images.

    Every image's outcome depends on the seed and its index alone, so that an
    interrupted series ends like an uninterrupted one. An image counts as broken only
    if the model, asked again, is wrong; else it is again the given one.

    Args:
        classifier: the model.
        attacks: by name, in order.
        x: (images, height, width, channels), float32 in [0, 1].
        y: (images,), integer labels.
        seed: of all random numbers.
        progress: of these images and attacks; it is updated.
        all_images: for a transfer to other models: the first attack also gets the
            images that the model is wrong about, and what was tried on robust ones is
            kept.
        indices: (images,), of the images in their data set, see `Attack.outcomes`;
            by default 0, 1, 2, ...
        watch: given an attack's name, its number of images and its outcomes, passes
            the outcomes on: for progress bars, and to save the progress meanwhile.
    """
    indices = np.arange(len(x)) if indices is None else indices
    if progress.finished < 0:
        progress.settle(is_right(classifier, progress.images, y))
    for index, (name, attack) in enumerate(attacks.items()):
        if index < progress.finished:
            continue
        attacked = progress.broken_by == ROBUST
        if all_images and index == 0:
            attacked |= progress.broken_by == CLEAN
        left = np.flatnonzero(attacked & ~progress.done[index])
        before = progress.bad_gradients - classifier.bad_gradients
        outcomes = attack.outcomes(classifier, x[left], y[left], seed, indices[left])
        for outcome in watch(name, len(left), outcomes):
            progress.note(
                index, dataclasses.replace(outcome, index=left[outcome.index])
            )
            progress.bad_gradients = before + classifier.bad_gradients
        progress.settle(is_right(classifier, progress.images, y))
        if not all_images:
            robust = progress.broken_by == ROBUST
            progress.images[robust] = x[robust]
