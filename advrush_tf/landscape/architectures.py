"""Curvature and robustness of architectures that share a supernet's weights.

Source: the motivating experiment of Mok et al., AdvRush, ICCV 2021, section 3.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from advrush_tf.attacks.base import BatchedClassifier, is_right
from advrush_tf.attacks.geometry import as_number
from advrush_tf.attacks.losses import margin
from advrush_tf.attacks.pgd import SignAscent, usual_step_size
from advrush_tf.data.dataset import ImageDataset
from advrush_tf.genotypes.genotype import Genotype, random_genotype
from advrush_tf.landscape.meter import PROBE_LENGTH, CurvatureMeter
from advrush_tf.landscape.weight_sharing import SharedNetwork
from advrush_tf.search.model import AdvRushSearchModel

_TRAINING_BATCH = 64
_STEPS = 10
# Of a Hessian with a vector, for its largest eigenvalue alone.
_PRODUCTS = 10


@dataclasses.dataclass(frozen=True)
class SampledGenotype:
    """The measurements of an architecture with a supernet's weights.

    Attributes:
        seed: of `random_genotype`; None if the genotype was not drawn.
        genotype: the architecture.
        clean, robust: accuracies on clean images and under PGD.
        top_eigenvalue, penalty, gradient_norm: means over images, see `Curvature`.
    """

    seed: int | None
    genotype: Genotype
    clean: float
    robust: float
    top_eigenvalue: float
    penalty: float
    gradient_norm: float

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return {**vars(self), "genotype": self.genotype.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "SampledGenotype":
        """Restores a sample from the dictionary of `to_dict`.

        Raises:
            ValueError: the dictionary is damaged.
        """
        try:
            return cls(**{**data, "genotype": Genotype(**data["genotype"])})
        except (TypeError, KeyError) as error:
            raise ValueError(f"what was measured is damaged: {error}") from None


class ArchitectureSampler:
    """Measures architectures with the weights of one supernet, one after the other.

    All are measured on the same images with the same random numbers, by functions that
    are compiled once. Batch normalisation takes new statistics for each architecture,
    from training images without augmentation. The attack is PGD on the margin, whose
    gradient does not vanish for confident models as that of the cross-entropy does.

    Args:
        model: the supernet, restored after each measurement.
        dataset: labelled images; samples of the test images are used.
        epsilon: radius of the L-infinity ball, in [0, 1] units; a text such as "8/255"
            is understood.
        test_images: number of images for the accuracies.
        curvature_images: number of images for the curvature.
        probe_length: length of the penalty's probe, in [0, 1] units.
        batches: training batches of 64 images for batch normalisation, at most.
        batch_size: images at a time in all measurements.
        seed: of the first genotype and of all other random numbers.

    Raises:
        ValueError: the data set does not fit the supernet.
    """

    def __init__(
        self,
        model: AdvRushSearchModel,
        dataset: ImageDataset,
        epsilon: float = 8 / 255,
        test_images: int = 256,
        curvature_images: int = 16,
        probe_length: float = PROBE_LENGTH,
        batches: int = 20,
        batch_size: int = 64,
        seed: int = 0,
    ):
        self._seed, epsilon = seed, as_number(epsilon)
        self._supernet = model.supernet
        self._network = SharedNetwork(model)
        self._batches = _training_batches(dataset, batches, seed)
        self._x, self._y = dataset.test.drawn(test_images, seed).unit_arrays()
        noise = np.random.default_rng(seed).uniform(-epsilon, epsilon, self._x.shape)
        self._start = (self._x + noise).astype(np.float32)
        size = min(batch_size, len(self._x))
        self._classifier = BatchedClassifier(self._network, dataset.image_shape, size)
        self._curved = dataset.test.drawn(curvature_images, seed).unit_arrays()
        self._meter = CurvatureMeter(
            self._network,
            min(curvature_images, batch_size),
            probe_length,
            top=1,
            lanczos_steps=_PRODUCTS,
            seed=seed,
            trace_probes=0,
        )
        attack = SignAscent(epsilon, usual_step_size(epsilon, _STEPS), _STEPS)

        @tf.function(autograph=False)
        def craft(x: tf.Tensor, start: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
            return attack.ascend(
                lambda images: margin(self._classifier.logits(images), y), x, start
            )

        self._craft = craft

    def draw(
        self, count: int, known: Sequence[SampledGenotype] = ()
    ) -> Iterator[SampledGenotype]:
        """Yields the measurements of random genotypes, each when it is requested.

        The measurements of a genotype depend on its seed alone, so that a resumed run
        gives the results of an uninterrupted one.

        Args:
            count: number of genotypes, with the seeds `seed`, `seed` + 1, and so on.
            known: earlier measurements, whose seeds are skipped.
        """
        seen = {sample.seed for sample in known}
        for number in range(count):
            seed = (self._seed + number) % 2**32
            if seed not in seen:
                supernet = self._supernet
                drawn = random_genotype(seed, supernet.num_nodes, supernet.primitives)
                yield self.measure(drawn, seed)

    def measure(self, genotype: Genotype, seed: int | None = None) -> SampledGenotype:
        """Measures one architecture.

        Args:
            genotype: with the supernet's number of nodes and operations.
            seed: the value of `SampledGenotype.seed`.

        Raises:
            ValueError: the genotype does not fit the supernet.
        """
        with self._network.adopted(genotype, self._batches):
            right = is_right(self._classifier, self._x, self._y)
            robust = right & is_right(self._classifier, self._crafted(), self._y)
            curvature = self._meter.measure(*self._curved)
        return SampledGenotype(
            seed,
            genotype,
            float(right.mean()),
            float(robust.mean()),
            float(curvature.eigenvalues[:, 0].mean()),
            float(curvature.penalties.mean()),
            float(curvature.gradient_norms.mean()),
        )

    def _crafted(self) -> np.ndarray:
        """The test images under PGD."""
        crafted = np.empty_like(self._x)
        size = self._classifier.batch_size
        for first in range(0, len(self._x), size):
            rows = slice(first, first + size)
            arrays = self._x[rows], self._start[rows], self._y[rows]
            batch = [self._classifier.filled(array) for array in arrays]
            crafted[rows] = self._craft(*batch).numpy()[: len(arrays[0])]
        return crafted


def _training_batches(
    dataset: ImageDataset, batches: int, seed: int
) -> list[np.ndarray]:
    size = min(_TRAINING_BATCH, len(dataset.train))
    count = min(batches, len(dataset.train) // size)
    images = dataset.train.sample(count * size, seed)
    return [
        images[start : start + size].astype(np.float32) / 255
        for start in range(0, count * size, size)
    ]
