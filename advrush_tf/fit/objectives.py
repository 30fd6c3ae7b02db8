"""Objectives of a fit: losses of (model_fn, x, y), most of them adversarial.

An objective crafts adversarial images with batch normalisation in inference mode, then
gives each example's loss from the logits of the images it needs. `model_fn`
maps (images, training) to logits.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import keras
import tensorflow as tf

from advrush_tf.attacks.losses import log_odds
from advrush_tf.attacks.pgd import SignAscent, Start
from advrush_tf.errors import Choice
from advrush_tf.inputs import as_labels, check_count, check_images, check_labels
from advrush_tf.losses import cross_entropy, kl_divergence
from advrush_tf.version import PACKAGE

ModelFn = Callable[[tf.Tensor, bool], tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Objective(abc.ABC):
    """Base of the objectives: hyper-parameters only.

    A subclass declares which images' logits its `losses` need, and how it crafts.

    Attributes:
        label_smoothing: in [0, 1), of the cross-entropy.

    Raises:
        ValueError: a number is out of range.
    """

    label_smoothing: float = 0.0

    needs_clean: ClassVar[bool] = False
    adversarial: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(
                f"label_smoothing must be in [0, 1), not {self.label_smoothing}"
            )

    def __call__(
        self, model_fn: ModelFn, x: tf.Tensor, y: tf.Tensor, seed: Any = (0, 0)
    ) -> tf.Tensor:
        """Crafts, and gives the losses whose mean a step of a fit lowers.

        Args:
            model_fn: maps (images, training) to logits.
            x: (batch, height, width, channels) in [0, 1].
            y: labels, see `advrush_tf.inputs.as_labels`.
            seed: two integers, of the attack's start.

        Returns:
            (batch,), with batch normalisation in training mode.

        Raises:
            ValueError: images or labels are not as above.
        """
        check_images(x)
        x, labels = tf.convert_to_tensor(x), as_labels(y)
        check_count(labels, x.shape[0])

        def logits_fn(images: tf.Tensor, training: bool) -> tf.Tensor:
            logits = model_fn(images, training)
            check_labels(y, logits.shape[-1])
            return logits

        images = self.craft(logits_fn, x, labels, seed)
        clean = logits_fn(x, True) if self.needs_clean else None
        crafted = logits_fn(images, True) if self.adversarial else None
        return self.losses(labels, clean, crafted)

    @abc.abstractmethod
    def craft(
        self, model_fn: ModelFn, x: tf.Tensor, y: tf.Tensor, seed: Any
    ) -> tf.Tensor:
        """Adversarial images, with batch normalisation in inference mode.

        Args and shapes are those of `__call__`; the result is constant for
        differentiation.
        """

    @abc.abstractmethod
    def losses(
        self, y: tf.Tensor, clean: tf.Tensor | None, crafted: tf.Tensor | None
    ) -> tf.Tensor:
        """The loss of each example.

        Args:
            y: (batch,), integer labels.
            clean: logits (batch, classes) of the images, if `needs_clean`.
            crafted: logits of the crafted images, if `adversarial`.

        Returns:
            (batch,).
        """

    def get_config(self) -> dict[str, Any]:
        """The hyper-parameters, for Keras' serialisation."""
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Objective":
        """The objective with these hyper-parameters."""
        return cls(**config)

    def _cross_entropy(self, y, logits):
        return cross_entropy(y, logits, self.label_smoothing)


@keras.saving.register_keras_serializable(PACKAGE)
@dataclasses.dataclass(frozen=True)
class Standard(Objective):
    """Cross-entropy of the given images."""

    needs_clean: ClassVar[bool] = True
    adversarial: ClassVar[bool] = False

    def craft(self, model_fn, x, y, seed):
        del model_fn, y, seed
        return x

    def losses(self, y, clean, crafted):
        return self._cross_entropy(y, clean)


@keras.saving.register_keras_serializable(PACKAGE)
@dataclasses.dataclass(frozen=True)
class PGD(Objective):
    """Cross-entropy of images that raise it, by its log-odds (`attacks.losses`).

    Attributes:
        epsilon, step_size, steps, start: see `SignAscent`.

    Source: Madry et al., arXiv 1706.06083, equation 2.1.
    """

    epsilon: float = 0.031
    step_size: float = 0.01
    steps: int = 7
    start: Start = Start.GAUSSIAN

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("epsilon", "step_size", "start"):
            object.__setattr__(self, name, getattr(self.attack, name))

    @property
    def attack(self) -> SignAscent:
        """The attack that crafts."""
        return SignAscent(self.epsilon, self.step_size, self.steps, self.start)

    def craft(self, model_fn, x, y, seed):
        return self.attack.craft(lambda z: log_odds(model_fn(z, False), y), x, seed)

    def losses(self, y, clean, crafted):
        return self._cross_entropy(y, crafted)


@keras.saving.register_keras_serializable(PACKAGE)
@dataclasses.dataclass(frozen=True)
class TRADES(PGD):
    """Clean cross-entropy plus beta * KL(f(x) || f(x')), which crafted images x' raise.

    Attributes:
        beta: weight of the divergence.

    Source: Zhang et al., arXiv 1901.08573, algorithm 1.
    """

    beta: float = 6.0

    needs_clean: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_beta(self.beta)

    def craft(self, model_fn, x, y, seed):
        clean = tf.stop_gradient(model_fn(x, False))
        return self.attack.craft(
            lambda z: kl_divergence(clean, model_fn(z, False)), x, seed
        )

    def losses(self, y, clean, crafted):
        return self._cross_entropy(y, clean) + self.beta * kl_divergence(clean, crafted)


@keras.saving.register_keras_serializable(PACKAGE)
@dataclasses.dataclass(frozen=True)
class MART(PGD):
    """Boosted cross-entropy plus a divergence weighted by the clean error probability.

    Attributes:
        beta: weight of the divergence (the paper's lambda).

    Source: Wang et al., Improving Adversarial Robustness Requires Revisiting
        Misclassified Examples, ICLR 2020; steps and margin as in the authors' code.
    """

    step_size: float = 0.007
    steps: int = 10
    beta: float = 5.0

    needs_clean: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_beta(self.beta)

    def losses(self, y, clean, crafted):
        true = tf.one_hot(y, crafted.shape[-1], dtype=crafted.dtype)
        others = tf.reduce_max(tf.nn.softmax(crafted) * (1 - true), -1)
        # More than 1: where another class has all probability, the margin is bounded.
        margin = -tf.math.log(_ONE_AND_MORE - others)
        error = 1 - tf.reduce_sum(tf.nn.softmax(clean) * true, -1)
        boosted = self._cross_entropy(y, crafted) + margin
        return boosted + self.beta * error * kl_divergence(clean, crafted)


@keras.saving.register_keras_serializable(PACKAGE)
@dataclasses.dataclass(frozen=True)
class FGSMRS(PGD):
    """Cross-entropy after one long step from a uniform start: for small budgets.

    Source: Wong et al., Fast is better than free, arXiv 2001.03994, algorithm 3.
    """

    epsilon: float = 8 / 255
    step_size: float = 10 / 255
    steps: int = 1
    start: Start = Start.UNIFORM


class ObjectiveName(Choice):
    """The objectives by name."""

    STANDARD = "standard"
    PGD = "pgd"
    TRADES = "trades"
    MART = "mart"
    FGSM_RS = "fgsm_rs"

    @property
    def objective(self) -> type[Objective]:
        """The class of this name."""
        return _CLASSES[self]


_CLASSES: dict[ObjectiveName, type[Objective]] = {
    ObjectiveName.STANDARD: Standard,
    ObjectiveName.PGD: PGD,
    ObjectiveName.TRADES: TRADES,
    ObjectiveName.MART: MART,
    ObjectiveName.FGSM_RS: FGSMRS,
}
_ONE_AND_MORE = 1.0001


def _check_beta(beta: float) -> None:
    if not 0 <= beta < float("inf"):
        raise ValueError(f"beta must be 0 or more, not {beta}")
