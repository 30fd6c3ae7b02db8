"""The structure of our attacks: runs of steps on the images in the slots of a batch.

An attack is its hyper-parameters and two hooks, `start` and `step`. Here their results
are checked: only an image inside the ball counts. A slot whose image is broken, or
whose run has ended, takes the next job; shapes never change, so nothing is traced again
as fewer images survive.
"""

import abc
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from advrush_tf.attacks.base import Attack, LogitsFn, Outcome
from advrush_tf.attacks.geometry import (
    Norm,
    fused,
    length,
    project,
    tolerance,
    unit,
)
from advrush_tf.attacks.losses import target_classes
from advrush_tf.attacks.queue import Attempt, Queue
from advrush_tf.attacks.randomness import normal, seeds_of, uniform

State = dict[str, tf.Tensor]


class Batch(NamedTuple):
    """The work of a batch: one image and run a slot; every field has one row a slot.

    Attributes:
        x: (batch, height, width, channels), the given image.
        y: (batch,), int32, its label.
        logits: (batch, classes), of `x`.
        seed: (batch, 2), of the image, see `seeds_of`.
        run: (batch,), int32, which run of the attack this is.
    """

    x: tf.Tensor
    y: tf.Tensor
    logits: tf.Tensor
    seed: tf.Tensor
    run: tf.Tensor

    def target(self, rank: tf.Tensor) -> tf.Tensor:
        """The wrong class with the (rank + 1)-th highest clean logit, (batch,)."""
        return target_classes(self.logits, self.y, rank)

    def uniform(self, shape: tuple[int, ...], *salts: Any) -> tf.Tensor:
        """Uniform numbers in [0, 1) of each slot's image and run, (batch, *shape)."""
        return uniform(self.seed, shape, self._numbers(salts))

    def normal(self, shape: tuple[int, ...], *salts: Any) -> tf.Tensor:
        """N(0, 1) numbers of each slot's image and run, (batch, *shape)."""
        return normal(self.seed, shape, self._numbers(salts))

    def _numbers(self, salts: tuple[Any, ...]) -> tf.Tensor:
        return tf.stack([self.run, *(salt + 0 * self.run for salt in salts)], -1)

    def in_ball(self, norm: Norm, epsilon: float) -> tf.Tensor:
        """A random image on the border of the ball around `x`, clipped to [0, 1].

        For L-infinity the largest of uniform numbers is scaled to epsilon.
        """
        shape = tuple(self.x.shape[1:])
        if norm is Norm.LINF:
            direction = 2 * self.uniform(shape) - 1
        else:
            direction = self.normal(shape)
        delta = tf.cast(epsilon * unit(norm, direction), self.x.dtype)
        return tf.clip_by_value(self.x + delta, 0.0, 1.0)


class StepResult(NamedTuple):
    """A step's outcome.

    Attributes:
        state: of the next step.
        images: (batch, height, width, channels), images whose logits the step saw.
        wrong: (batch,), bool, whether the model did not give those their label.
        taken: (batch,), int32, of how many steps this is the outcome.
    """

    state: State
    images: tf.Tensor
    wrong: tf.Tensor
    taken: tf.Tensor | int = 1


@dataclasses.dataclass(frozen=True)
class IterativeAttack(Attack):
    """Base of our attacks: runs of steps.

    A subclass defines `start`, `step` and, if it can be persistent, `strongest`, of
    which all tensors have one row a slot.

    Attributes: those of `Attack`.
    """

    # Steps between two looks at which images are broken.
    block = 10

    @abc.abstractmethod
    def runs(self, num_classes: int) -> int:
        """The number of runs (restarts or targets) of an image that survives."""

    @property
    @abc.abstractmethod
    def steps(self) -> int:
        """Steps of a run; each looks at the model's logits at least once."""

    @abc.abstractmethod
    def start(self, batch: Batch) -> State:
        """The state before a run's first step; the model is not called here."""

    @abc.abstractmethod
    def step(
        self,
        logits_fn: LogitsFn,
        batch: Batch,
        index: tf.Tensor,
        draws: tf.Tensor,
        state: State,
    ) -> StepResult:
        """One step of all slots, or as many as `ahead` says.

        Args:
            logits_fn: images to logits.
            batch: images and runs of the slots.
            index: (batch,), int32, each slot's number of steps so far in its run.
            draws: (batch, ahead, `draws`), uniform numbers of the next steps.
            state: of `start` or of the last step.
        """

    def ahead(self, slots: int, batch_size: int) -> int:
        """Returns how many steps of a slot are tried at a time, while none changes it.

        Args:
            slots: images at a time.
            batch_size: images that the model can take at a time.
        """
        del slots, batch_size
        return 1

    def strongest(self, state: State) -> tf.Tensor:
        """The images with the largest loss of each slot's run, for `persistent`."""
        raise NotImplementedError

    def draws(self, image_shape: Sequence[int]) -> int:
        """The number of random numbers that a step needs for an image of that shape."""
        del image_shape
        return 0

    def _tried(self, classifier, x, y, seed, indices):
        if len(x):
            seeds = seeds_of(seed, indices).numpy()
            yield from _Runner(self, classifier, x, y, seeds).run()


class _Progress(NamedTuple):
    """The state of each slot: its steps so far, and the image that broke it."""

    index: tf.Tensor
    broken: tf.Tensor
    images: tf.Tensor
    state: State


class _Runner:
    """One pass of an attack over images."""

    def __init__(self, attack, classifier, x, y, seeds):
        self._attack, self._classifier, self._x = attack, classifier, x
        self._y, self._seeds = y.astype(np.int32), seeds
        self._logits = classifier.predict(x)
        self._size = _even(
            len(x) * attack.runs(classifier.num_classes), classifier.batch_size
        )
        self._queue = Queue(len(x), attack.runs(classifier.num_classes))
        # Image and verdict so far, where an earlier run is still going on.
        self._made: dict[int, tuple[np.ndarray, bool]] = {}

    def run(self) -> Iterator[Outcome]:
        jobs: list[Attempt | None] = [self._queue.next() for _ in range(self._size)]
        batch = self._batch(jobs)
        ahead = self._attack.ahead(len(jobs), self._classifier.batch_size)
        graphs = _Graphs(self._attack, self._classifier.followed_logits, batch, ahead)
        progress = graphs.begin(batch)
        while any(jobs):
            self._classifier.check_stop()
            progress = graphs.advance(batch, progress)
            index, broken = progress.index.numpy(), progress.broken.numpy()
            ended = index >= self._attack.steps
            if not self._attack.persistent:
                ended |= broken
            if any(jobs[slot] for slot in np.flatnonzero(ended)):
                yield from self._collect(jobs, ended, broken, progress.images)
                fresh = self._refill(jobs, ended)
                batch = self._batch(jobs)
                progress = graphs.renew(batch, progress, tf.constant(fresh))

    def _collect(self, jobs, ended, broken, images) -> Iterator[Outcome]:
        for slot in np.flatnonzero(ended):
            job = jobs[slot]
            if job is None or not self._queue.is_needed(job):
                continue
            if broken[slot] or job.image not in self._made:
                self._made[job.image] = images[slot].numpy(), bool(broken[slot])
            if self._queue.end(job, broken[slot]):
                yield Outcome(job.image, *self._made.pop(job.image))

    def _refill(self, jobs: list[Attempt | None], ended: np.ndarray) -> np.ndarray:
        """Gives the slots that are free new jobs; True for each that was free."""
        fresh = np.zeros(len(jobs), bool)
        for slot, job in enumerate(jobs):
            if job and (ended[slot] or not self._queue.is_needed(job)):
                jobs[slot] = self._queue.next()
                fresh[slot] = True
        return fresh

    def _batch(self, jobs: list[Attempt | None]) -> Batch:
        # A slot without a job repeats an image; its outcome is ignored.
        images = [0 if job is None else job.image for job in jobs]
        runs = [0 if job is None else job.run for job in jobs]
        return Batch(
            tf.constant(self._x[images]),
            tf.constant(self._y[images]),
            tf.constant(self._logits[images]),
            tf.constant(self._seeds[images]),
            tf.constant(runs, tf.int32),
        )


def _even(jobs: int, most: int) -> int:
    """A number of slots, at most `most`, of which few are idle in the last round."""
    rounds = math.ceil(jobs / most)
    return math.ceil(jobs / rounds)


class _Graphs:
    """The functions of a pass over such batches, each traced once, here.

    Args:
        attack: whose runs the batches hold.
        logits_fn: images to logits.
        batch: of the shapes that all batches of the pass have.
        ahead: how many steps are tried at a time.

    Attributes:
        begin: batch to the progress before the first step of all its runs.
        renew: batch, progress and (batch,) bool to the progress in which those slots
            that are True are before their first step.
        advance: batch and progress to the progress after the next block of steps.
    """

    def __init__(
        self, attack: IterativeAttack, logits_fn: LogitsFn, batch: Batch, ahead: int
    ):
        self._attack, self._logits_fn, self._ahead = attack, logits_fn, ahead
        self.begin = _traced(self._begin, batch)
        fresh, progress = tf.fill(tf.shape(batch.y), True), self.begin(batch)
        self.renew = _traced(self._renew, batch, progress, fresh)
        self.advance = _traced(self._advance, batch, progress)

    def _begin(self, batch: Batch) -> _Progress:
        count = tf.shape(batch.y)
        return _Progress(
            tf.zeros(count, tf.int32),
            tf.zeros(count, tf.bool),
            batch.x,
            self._attack.start(batch),
        )

    def _renew(self, batch: Batch, progress: _Progress, fresh: tf.Tensor) -> _Progress:
        return _where(fresh, self.begin(batch), progress)

    def _advance(self, batch: Batch, progress: _Progress) -> _Progress:
        block, ahead = self._attack.block, self._ahead
        begun = self._index(progress) // block * block
        draws = _block_draws(self._attack, batch, begun, ahead)
        _, progress = tf.while_loop(
            lambda number, progress: (
                (number + ahead <= block) & tf.reduce_any(self._active(progress))
            ),
            lambda number, progress: (
                number + ahead,
                self._step(batch, begun, draws, progress),
            ),
            (0, progress),
            maximum_iterations=block // ahead,
            parallel_iterations=1,
        )
        return _checked(self._attack, batch, progress)

    def _index(self, progress: _Progress) -> tf.Tensor:
        # A slot without a job may have come to its run's end.
        return tf.minimum(progress.index, self._attack.steps - 1)

    def _active(self, progress: _Progress) -> tf.Tensor:
        """(batch,), bool: the slots whose next step counts."""
        active = progress.index < self._attack.steps
        return active if self._attack.persistent else active & ~progress.broken

    def _step(
        self, batch: Batch, begun: tf.Tensor, draws: tf.Tensor, progress: _Progress
    ) -> _Progress:
        attack, index = self._attack, self._index(progress)
        # A slot that waits for its next job goes on; its results are ignored.
        active = self._active(progress)
        places = (index - begun)[:, None] + tf.range(self._ahead)
        drawn = tf.gather(draws, places, batch_dims=1)
        result = attack.step(self._logits_fn, batch, index, drawn, progress.state)
        hit = active & result.wrong
        return _Progress(
            progress.index + tf.where(active, result.taken, 0),
            progress.broken | hit,
            fused(_where, hit, result.images, progress.images),
            result.state,
        )


def _traced(function: Callable, *arguments: Any) -> Callable:
    return tf.function(function, autograph=False).get_concrete_function(*arguments)


def _checked(attack: IterativeAttack, batch: Batch, progress: _Progress) -> _Progress:
    """Counts as broken only by images inside the ball, whatever the attack says."""
    if attack.persistent:
        strongest = attack.strongest(progress.state)
        images = _where(progress.broken, progress.images, strongest)
        progress = progress._replace(images=images)
    images = project(attack.norm, progress.images, batch.x, attack.epsilon)
    # A projected image is another one than the model answered to.
    moved = length(attack.norm, images - progress.images)
    same = moved <= tolerance(attack.norm, attack.epsilon)
    return progress._replace(broken=progress.broken & same, images=images)


def _block_draws(
    attack: IterativeAttack, batch: Batch, begun: tf.Tensor, ahead: int
) -> tf.Tensor:
    """The uniform numbers of each slot's steps from its block's first one on.

    Of one block, or where slots are in the middle of theirs of two: (batch, steps,
    draws). They depend on the step alone, not on how many are tried at a time.
    """
    blocks = 1 if ahead == 1 else 2
    count = attack.draws(batch.x.shape[1:])
    if not count:
        return tf.zeros([tf.shape(begun)[0], blocks * attack.block, 0])
    return tf.concat(
        [
            batch.uniform((attack.block, count), 1, begun + block * attack.block)
            for block in range(blocks)
        ],
        1,
    )


def _where(mask: tf.Tensor, chosen: Any, other: Any) -> Any:
    """Takes each slot's rows from `chosen` where the mask holds, else from `other`."""

    def one(a, b):
        shape = tf.concat([tf.shape(mask), tf.ones(a.shape.rank - 1, tf.int32)], 0)
        return tf.where(tf.reshape(mask, shape), a, b)

    return tf.nest.map_structure(one, chosen, other)
