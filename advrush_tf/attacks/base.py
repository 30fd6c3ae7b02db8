"""What every attack is: hyper-parameters, and outcomes for a model's images."""

import abc
import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from advrush_tf.attacks.geometry import Norm
from advrush_tf.attacks.victim import BatchedClassifier
from advrush_tf.nn.checks import check_images


class Outcome(NamedTuple):
    """What became of one image.

    Attributes:
        row: where it stands in what was attacked.
        image: (height, width, channels), in the ball around the given one and in
            [0, 1]: adversarial if broken, else the given one or what was tried last.
        broken: whether it is adversarial.
    """

    row: int
    image: np.ndarray
    broken: bool


@dataclasses.dataclass(frozen=True)
class Attack(abc.ABC):
    """Base of the attacks: hyper-parameters only; model and data come at the call.

    Attributes:
        norm: of the ball.
        epsilon: its radius, in [0, 1] units.

    Raises:
        ValueError: a number is out of range.
    """

    norm: Norm = Norm.LINF
    epsilon: float = 8 / 255

    def __post_init__(self) -> None:
        object.__setattr__(self, "norm", Norm(self.norm))
        self._require_positive("epsilon")

    def _require_positive(self, *names: str) -> None:
        for name in names:
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(
                    f"{name} must be more than 0, not {getattr(self, name)}"
                )

    @abc.abstractmethod
    def outcomes(
        self,
        classifier: BatchedClassifier,
        x: np.ndarray,
        y: np.ndarray,
        seed: int,
        indices: np.ndarray | None = None,
    ) -> Iterator[Outcome]:
        """Attacks images and yields each one's outcome as soon as it is known.

        Args:
            classifier: the model.
            x: (images, height, width, channels), float32 in [0, 1].
            y: (images,), integer labels.
            seed: of the attack's random numbers.
            indices: (images,), the numbers of the images in their data set, which
                with `seed` give their random numbers; by default 0, 1, 2, ...
        """

    def craft(
        self, model: Any, x: np.ndarray, y: np.ndarray, seed: int = 0, **options: Any
    ) -> np.ndarray:
        """Attacks images, whatever their number.

        Args:
            model: see `BatchedClassifier`.
            x: (images, height, width, channels), floats in [0, 1].
            y: (images,), integer labels.
            seed: of the attack's random numbers.
            **options: of `BatchedClassifier`.

        Returns:
            Images as `x`, see `Outcome.image`.

        Raises:
            ValueError: images are not floats in [0, 1].
        """
        check_images(x)
        x = np.array(x, np.float32)
        crafted = x.copy()
        classifier = BatchedClassifier(model, x.shape[1:], **options)
        for outcome in self.outcomes(classifier, x, np.asarray(y), seed):
            crafted[outcome.row] = outcome.image
        return crafted
