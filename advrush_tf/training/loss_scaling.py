"""Loss scaling: float16 gradients that neither vanish nor overflow.

float16 holds numbers from 6e-8 to 65504, and most gradients of a mean loss are small.
So the loss is multiplied before the backward pass and the gradients, which are float32
again where they leave the network, are divided after it. The factor is as large as
gradients allow: where one overflows, the step is undone and the factor halves.

Source: Micikevicius et al., Mixed Precision Training, arXiv 1710.03740, section 3.2;
the numbers are those of Keras' `LossScaleOptimizer`.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import keras
import tensorflow as tf

from advrush_tf import replication
from advrush_tf.errors import NonFiniteLossError

INITIAL_SCALE = 2.0**15
GROWTH_STEPS = 2000
# Below it, gradients overflow that were not multiplied at all.
SMALLEST_SCALE = 1.0
# Of one image's loss, where only its gradient in the image is wanted: images are never
# added up, so that it need not adapt.
_IMAGE_SCALE = 2.0**8


class NoLossScale:
    """Of arithmetic that needs none: everything stays as it is.

    The methods are those of `DynamicLossScale`.
    """

    variables: Sequence[keras.Variable] = ()
    dynamic = False

    def scaled(self, loss: tf.Tensor) -> tf.Tensor:
        return loss

    def of_one_example(self, batch: tf.Tensor) -> tf.Tensor | None:
        del batch
        return None

    def unscaled(self, gradients: list[tf.Tensor]) -> list[tf.Tensor]:
        return gradients

    def finite(self, gradients: list[tf.Tensor]) -> list[tf.Tensor]:
        return gradients

    def guarding(
        self, shares: Sequence[tf.Tensor], variables: Sequence[keras.Variable]
    ) -> AbstractContextManager[None]:
        del shares, variables
        return contextlib.nullcontext()

    def check(self) -> None:
        pass


class DynamicLossScale(keras.layers.Layer):
    """The scale of a model's losses, which adapts to its gradients.

    It is a power of two: multiplying and dividing by it rounds nothing in float32. Its
    two variables belong to the model's state.
    """

    dynamic = True

    def __init__(self) -> None:
        super().__init__(name="loss_scale", dtype="float32", autocast=False)
        self.scale, self.good_steps = (
            self.add_weight(
                name=name,
                shape=(),
                dtype=dtype,
                initializer=keras.initializers.Constant(value),
                trainable=False,
                autocast=False,
            )
            for name, dtype, value in (
                ("scale", "float32", INITIAL_SCALE),
                ("good_steps", "int64", 0),
            )
        )
        self.built = True

    def scaled(self, loss: tf.Tensor) -> tf.Tensor:
        """What to differentiate in a loss' place: a mean over the batch."""
        return loss * self.scale.value

    def of_one_example(self, batch: tf.Tensor) -> tf.Tensor:
        """The scale of each example's own loss, where no mean is made of them.

        The examples' gradients are then as large as within that of these examples' mean
        loss.
        """
        return self.scale.value / tf.cast(tf.shape(batch)[0], tf.float32)

    def unscaled(self, gradients: list[tf.Tensor]) -> list[tf.Tensor]:
        """The loss' gradients from those of the `scaled` loss."""
        return [gradient / self.scale.value for gradient in gradients]

    def finite(self, gradients: list[tf.Tensor]) -> list[tf.Tensor]:
        """The gradients with zeros where they overflowed."""
        return [tf.where(tf.math.is_finite(g), g, tf.zeros_like(g)) for g in gradients]

    @contextlib.contextmanager
    def guarding(
        self, shares: Sequence[tf.Tensor], variables: Sequence[keras.Variable]
    ) -> Iterator[None]:
        """Undoes what is done to variables meanwhile if a gradient is not finite.

        The scale then halves, or doubles after `GROWTH_STEPS` finite ones in a row. All
        replicas decide alike. Nothing runs conditionally, so that there may be sums
        over replicas inside.

        Args:
            shares: each replica's share of the gradients, unscaled.
            variables: those of the weights and of their optimizer. Running statistics
                are not among them: the forward pass that they come from is sound.
        """
        finite = _are_finite(shares)
        own = [tf.identity(variable.value) for variable in variables]
        yield
        for variable, value in zip(variables, own, strict=True):
            variable.assign(tf.where(finite, variable.value, value))
        self._adapt(finite)

    def _adapt(self, finite: tf.Tensor) -> None:
        scale, good = self.scale.value, self.good_steps.value + 1
        grows = good >= GROWTH_STEPS
        larger = tf.where(grows, 2 * scale, scale)
        # Below the smallest there is nothing but an error.
        smaller = tf.maximum(scale, SMALLEST_SCALE) / 2
        again = tf.logical_or(grows, tf.logical_not(finite))
        self.scale.assign(tf.where(finite, larger, smaller))
        self.good_steps.assign(tf.where(again, tf.zeros_like(good), good))

    def check(self) -> None:
        """Raises NonFiniteLossError where no scale keeps the gradients finite."""
        if (scale := float(self.scale.numpy())) < SMALLEST_SCALE:
            raise NonFiniteLossError(
                f"the gradients overflow float16 at any loss scale (now {scale}): "
                "lower the learning rate, or use mixed_bfloat16 or float32"
            )


LossScale = NoLossScale | DynamicLossScale


def loss_scale_for(dtype: str) -> LossScale:
    """The loss scale of networks that compute in a dtype."""
    return DynamicLossScale() if dtype == "float16" else NoLossScale()


def _are_finite(shares: Sequence[tf.Tensor]) -> tf.Tensor:
    """Whether all elements of the gradients are finite, on all replicas."""
    bad = tf.logical_not(tf.math.is_finite(tf.linalg.global_norm(shares)))
    return tf.equal(replication.all_reduce_sum(tf.cast(bad, tf.float32)), 0)


class LossScaleCheck(keras.callbacks.Callback):
    """Ends a fit in which no step succeeds any more."""

    def on_train_batch_end(self, batch, logs=None):
        self.model.loss_scale.check()


class MeanOfFinite(keras.metrics.Mean):
    """Mean of the values that are finite: a step that is undone has no penalty."""

    def update_state(self, value):
        finite = tf.math.is_finite(value)
        super().update_state(
            tf.where(finite, value, tf.zeros_like(value)),
            sample_weight=tf.cast(finite, self.dtype),
        )


def attackable(model_fn: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    """A float16 model's logits, whose gradient in the images keeps small values.

    It is the gradient of the model's own logits. No other derivative is right: neither
    those in weights nor second ones.

    Args:
        model_fn: maps images and whatever else to logits.
    """

    def logits(x, *arguments, **keywords):
        x = _multiply_gradient(tf.convert_to_tensor(x), 1 / _IMAGE_SCALE)
        y = model_fn(x, *arguments, **keywords)
        return _multiply_gradient(tf.cast(y, tf.float32), _IMAGE_SCALE)

    return logits


def _multiply_gradient(x: tf.Tensor, factor: float) -> tf.Tensor:
    @tf.custom_gradient
    def same(x):
        return tf.identity(x), lambda dy: factor * dy

    return same(x)
