"""CleverHans' attacks, with our attacks' hyper-parameters, seeds and outcomes."""

import abc
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from advrush_tf.attacks.base import Attack, BatchedClassifier, Outcome
from advrush_tf.attacks.cleverhans_compat import (
    CarliniWagnerL2,
    fgsm,
    mim,
    pgd_from,
    spsa_drawing_from,
)
from advrush_tf.attacks.geometry import (
    Norm,
    as_number,
    length,
    per_image,
    project,
)
from advrush_tf.attacks.losses import is_wrong, pick, target_classes
from advrush_tf.attacks.pgd import usual_step_size
from advrush_tf.attacks.randomness import seeds_of, uniform_in_ball

# (images, labels, seeds (batch, 2), number of the run) to images, one by one.
Crafter = Callable[[tf.Tensor, tf.Tensor, tf.Tensor, int], tf.Tensor]

_ORDERS = {Norm.LINF: np.inf, Norm.L2: 2}


@dataclasses.dataclass(frozen=True)
class CleverHansAttack(Attack):
    """Base of CleverHans' attacks: hyper-parameters only.

    Attributes: those of `Attack`.

    Raises:
        ValueError: a number is out of range, or the attack does not know the norm.

    Source: Papernot et al., arXiv 1610.00768 (CleverHans).
    """

    # The norms that the attack knows.
    norms: ClassVar[tuple[Norm, ...]] = (Norm.LINF, Norm.L2)

    def __post_init__(self) -> None:
        if self.norm not in self.norms:
            raise ValueError(
                f"norm must be {' or '.join(self.norms)}, not {self.norm}, for "
                f"{type(self).__name__}"
            )
        super().__post_init__()

    @abc.abstractmethod
    def crafter(self, classifier: BatchedClassifier) -> Crafter:
        """Returns the function that crafts one full batch after the other."""

    @property
    def runs(self) -> int:
        """The number of runs of an image that survives."""
        return 1

    def images_at_once(self, classifier: BatchedClassifier) -> int:
        """The number of images of a full batch that the crafter attacks."""
        return classifier.batch_size

    def _tried(self, classifier, x, y, seed, indices):
        # An image is that of the first run that broke the model, else of the last.
        left = np.arange(len(x))
        arrays = (x, y.astype(np.int32), seeds_of(seed, indices).numpy())
        crafter = self.crafter(classifier)
        for run in range(self.runs):
            survivors: list[int] = []
            for outcome in self._run(classifier, crafter, arrays, left, run):
                if outcome.broken or run == self.runs - 1:
                    yield outcome
                else:
                    survivors.append(outcome.index)
            left = np.array(survivors, int)

    def _run(self, classifier, crafter, arrays, indices, run) -> Iterator[Outcome]:
        """Attacks images (of images, labels and seeds) once, batch by batch."""
        size = self.images_at_once(classifier)
        for first in range(0, len(indices), size):
            part = indices[first : first + size]
            x, y, seeds = (array[part] for array in arrays)
            filled = map(classifier.filled, (x, y, seeds))
            crafted = crafter(*filled, run)[: len(part)]
            images = project(self.norm, crafted, x, self.epsilon).numpy()
            broken = is_wrong(classifier.predict(images), y).numpy()
            yield from map(Outcome, part.tolist(), images, broken.tolist())

    def _settings(self, y: tf.Tensor) -> dict[str, Any]:
        """The arguments of all of CleverHans' gradient attacks."""
        return {
            "norm": _ORDERS[self.norm],
            "eps": self.epsilon,
            "clip_min": 0.0,
            "clip_max": 1.0,
            "y": y,
        }


@dataclasses.dataclass(frozen=True)
class FGSM(CleverHansAttack):
    """Fast gradient method: one step of length epsilon up the cross-entropy.

    Source: Goodfellow et al., arXiv 1412.6572, section 4.
    """

    def crafter(self, classifier):
        return lambda x, y, seeds, run: fgsm(
            classifier.followed_logits, x, **self._settings(y)
        )


@dataclasses.dataclass(frozen=True)
class _Iterated(CleverHansAttack):
    """Base of attacks that repeat the fast gradient method's step.

    Attributes:
        steps: of a run.
        step_size: length of a step, at most epsilon; by default `usual_step_size`.
    """

    steps: int = 10
    step_size: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_positive("steps")
        if self.step_size is not None:
            object.__setattr__(self, "step_size", as_number(self.step_size))
        if self.step_size is not None and not 0 < self.step_size <= self.epsilon:
            raise ValueError(
                f"step_size must be more than 0 and at most epsilon, {self.epsilon}, "
                f"not {self.step_size}"
            )

    @property
    def used_step_size(self) -> float:
        """The length of a step, the given or the usual one."""
        return self.step_size or usual_step_size(self.epsilon, self.steps)

    def _settings(self, y):
        steps = {"nb_iter": self.steps, "eps_iter": self.used_step_size}
        return super()._settings(y) | steps


@dataclasses.dataclass(frozen=True)
class BIM(_Iterated):
    """Basic iterative method: steps from the image itself, kept in the ball.

    Source: Kurakin et al., arXiv 1607.02533, section 2.2.
    """

    def crafter(self, classifier):
        # CleverHans' PGD without a random start, and without checks that NumPy 2 fails.
        attack = pgd_from(None)
        return lambda x, y, seeds, run: attack(
            classifier.followed_logits, x, **self._settings(y)
        )


@dataclasses.dataclass(frozen=True)
class PGD(_Iterated):
    """Projected gradient descent from a uniformly random point of the ball.

    Attributes: those of the base and
        restarts: runs, each from another start.

    Source: Madry et al., arXiv 1706.06083, section 2.1.
    """

    steps: int = 20
    restarts: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_positive("restarts")

    @property
    def runs(self):
        return self.restarts

    def crafter(self, classifier):
        @tf.function(autograph=False)
        def start(seeds, run):
            return uniform_in_ball(
                self.norm, self.epsilon, seeds, classifier.image_shape, run
            )

        def crafter(x, y, seeds, run):
            attack = pgd_from(start(seeds, tf.constant(run)))
            return attack(
                classifier.followed_logits, x, rand_init=True, **self._settings(y)
            )

        return crafter


@dataclasses.dataclass(frozen=True)
class MIM(_Iterated):
    """Momentum iterative method: steps along a sum of normalised gradients.

    Attributes: those of the base and
        decay: factor of the sum in each step, at least 0.

    Source: Dong et al., arXiv 1710.06081, algorithm 1.
    """

    decay: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.decay < float("inf"):
            raise ValueError(f"decay must be 0 or more, not {self.decay}")

    def crafter(self, classifier):
        return lambda x, y, seeds, run: mim(
            classifier.followed_logits, x, decay_factor=self.decay, **self._settings(y)
        )


@dataclasses.dataclass(frozen=True)
class CarliniWagner(CleverHansAttack):
    """Carlini and Wagner's search for the nearest adversarial image in L2.

    Epsilon plays no part in the search; the image found is then moved into the ball.
    Where none was found it is the given image. A batch is never left early, which
    would depend on all its images.

    The steps are long: a pixel that is 0 or 1 is far out in the attack's tanh space.
    The weights are searched here, as CleverHans' own search never raises one again
    after its first success.

    Attributes: those of the base and
        targets: how many of the classes with the highest clean logits are aimed at; the
            nearest image counts.
        searches: for the weight of the margin in the loss, of each target.
        steps: of Adam, in each search.
        learning_rate: of Adam.
        first_weight: of the margin, in the first search; of a margin that is 1 at the
            given image.

    Source: Carlini & Wagner, arXiv 1608.04644, section VI.A.
    """

    norm: Norm = Norm.L2
    epsilon: float = 0.5
    targets: int = 3
    searches: int = 5
    steps: int = 200
    learning_rate: float = 0.1
    first_weight: float = 0.1

    norms = (Norm.L2,)

    def __post_init__(self) -> None:
        super().__post_init__()
        names = ("targets", "searches", "steps", "learning_rate", "first_weight")
        self._require_positive(*names)

    def crafter(self, classifier):
        # The weights suit any model where the target's logit is 1 below the label's.
        scale = tf.Variable([[1.0]], shape=(None, 1))
        attack = CarliniWagnerL2(
            lambda images: scale * classifier.followed_logits(images),
            batch_size=classifier.batch_size,
            binary_search_steps=1,
            max_iterations=self.steps,
            abort_early=False,
            learning_rate=self.learning_rate,
        )
        attack.targeted = True

        def crafter(x, y, seeds, run):
            logits, best = classifier.logits(x), x
            least = tf.fill(tf.shape(y), np.inf)
            for rank in range(min(self.targets, classifier.num_classes - 1)):
                attack.y = target_classes(logits, y, tf.fill(tf.shape(y), rank))
                gap = pick(logits, y) - pick(logits, attack.y)
                usable = (gap > 0) & tf.math.is_finite(gap)
                scale.assign(1 / tf.where(usable, gap, 1)[:, tf.newaxis])
                for found, distances in self._searched(attack, x):
                    best = tf.where(per_image(distances < least), found, best)
                    least = tf.minimum(distances, least)
            return best

        return crafter

    def _searched(self, attack: CarliniWagnerL2, x: tf.Tensor) -> Iterator[tuple]:
        """Images of each search for the weight, and distances, infinity for none."""
        weight = tf.fill(x.shape[:1], self.first_weight)
        low, high = tf.zeros_like(weight), tf.fill(x.shape[:1], np.inf)
        for _ in range(self.searches):
            attack.initial_const = weight
            images = tf.constant(attack.attack(x.numpy()))
            # The given image comes back where none was found.
            distances = length(Norm.L2, images - x)
            found = distances > 0
            yield images, tf.where(found, distances, np.inf)
            low, high = tf.where(found, low, weight), tf.where(found, weight, high)
            middle = (low + high) / 2
            weight = tf.where(tf.math.is_inf(high), 10 * weight, middle)


@dataclasses.dataclass(frozen=True)
class SPSA(CleverHansAttack):
    """Adam on gradients that are estimated from the logits at random points.

    It stops at the first step that breaks the model. Images are attacked one by one.

    Attributes: those of the base and
        steps: of Adam, at most.
        samples: points for one estimate, an even number.
        learning_rate: of Adam.
        delta: how far the points are from the image in each pixel, in [0, 1] units.

    Source: Uesato et al., arXiv 1802.05666, section 3.3.
    """

    steps: int = 100
    samples: int = 128
    learning_rate: float = 0.01
    delta: float = 0.01

    norms = (Norm.LINF,)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_positive("steps", "samples", "learning_rate", "delta")
        if self.samples % 2:
            raise ValueError(f"samples must be even, not {self.samples}")

    def images_at_once(self, classifier):
        return 1

    def crafter(self, classifier):
        generator = tf.random.Generator.from_seed(0)
        attack = spsa_drawing_from(generator)

        @tf.function(autograph=False)
        def attacked(x, y, seed):
            key = tf.random.stateless_uniform([], seed, None, None, tf.int64)
            generator.reset_from_key_counter(key, tf.zeros([2], tf.int64))
            return attack(
                classifier.logits,
                x,
                y,
                eps=self.epsilon,
                nb_iter=self.steps,
                clip_min=0.0,
                clip_max=1.0,
                early_stop_loss_threshold=0.0,
                learning_rate=self.learning_rate,
                delta=self.delta,
                spsa_samples=self.samples,
            )

        return lambda x, y, seeds, run: attacked(x[:1], y[:1], seeds[0])
