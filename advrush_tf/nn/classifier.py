"""ImageClassifier: the base of the networks that are fitted."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from advrush_tf.files import json_copy
from advrush_tf.inputs import check_dtype
from advrush_tf.nn.checks import check_normalisation, normalise
from advrush_tf.nn.image_model import ImageModel


class ImageClassifier(ImageModel):
    """Base of the networks: images in [0, 1] to logits.

    A subclass adds the arguments of its constructor to `_config` and begins its `call`
    with `prepare`.

    Args:
        num_classes: number of classes, at least 2.
        image_shape: (height, width, channels).
        mean, std: per channel, in [0, 1]; the images are normalised by them inside the
            network. None does not normalise.
        provenance: the origin of the weights (settings, epoch, accuracies), a mapping
            that JSON can hold. It is saved with the network and may be replaced.
        synchronized: see `Block`.

    Call arguments:
        x: (batch, height, width, channels), float in [0, 1].
        training: batch normalisation mode.

    Output shape:
        (batch, num_classes), logits.

    Raises:
        ValueError: mean and std do not fit the images, or JSON cannot hold the
            provenance.
    """

    def __init__(
        self,
        num_classes: int,
        image_shape: Sequence[int],
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        provenance: Mapping[str, Any] | None,
        synchronized: bool = True,
        **kwargs: Any,
    ):
        kwargs.setdefault("autocast", False)
        super().__init__(**kwargs)
        check_normalisation(mean, std, image_shape[-1])
        self.provenance = provenance or {}
        self._config: dict[str, Any] = {
            "num_classes": num_classes,
            "image_shape": tuple(image_shape),
            "mean": None if mean is None else tuple(mean),
            "std": None if std is None else tuple(std),
            "synchronized": synchronized,
        }

    @property
    def inherited(self) -> dict[str, Any]:
        """Arguments that the network passes on to its blocks."""
        return {"dtype": self.dtype_policy, "synchronized": self.synchronized}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the images."""
        return self._config["image_shape"]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self._config["num_classes"]

    @property
    def synchronized(self) -> bool:
        """True if batch normalisation uses the statistics of all replicas."""
        return self._config["synchronized"]

    @property
    def provenance(self) -> dict[str, Any]:
        """A copy of the origin of the weights, as JSON types."""
        return json.loads(self._provenance)

    @provenance.setter
    def provenance(self, value: Mapping[str, Any]) -> None:
        # As text, since Keras tracks what dictionaries hold.
        self._provenance = json.dumps(json_copy(value))

    def prepare(self, x: tf.Tensor) -> tf.Tensor:
        """Normalises images in [0, 1] and casts them to the network's arithmetic."""
        check_dtype(x)
        x = tf.cast(x, self.variable_dtype)
        x = normalise(x, self._config["mean"], self._config["std"])
        return tf.cast(x, self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            **self._config,
            "provenance": self.provenance,
        }
