"""PyTorch's optimizers and DARTS' learning-rate schedule, for Keras.

They differ from Keras' own: L2 regularisation is added to the gradient (after
clipping) instead of being decoupled, and the learning rate multiplies the velocity
when it is applied instead of being accumulated in it.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from advrush_tf import replication
from advrush_tf.nn.constants import constant
from advrush_tf.version import PACKAGE


class _Optimizer(keras.optimizers.Optimizer):
    """Base of the optimizers: right under a `tf.distribute` strategy.

    As in Keras, `apply` takes each replica's contribution to the gradient. These are
    added up first, so that clipping sees the norm of the whole gradient; then every
    replica updates its copies in the same way.
    """

    def apply(self, grads, trainable_variables=None):
        whole = self._clip(replication.all_reduce_sum(list(grads)))
        super().apply(whole, trainable_variables)

    def _clip(self, gradients: list[tf.Tensor]) -> list[tf.Tensor]:
        return gradients

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        for gradient, variable in zip(grads, trainable_variables, strict=True):
            self.update_step(gradient, variable, learning_rate)


@keras.saving.register_keras_serializable(PACKAGE)
class MomentumSGD(_Optimizer):
    """Clip, add L2, then v <- momentum * v + g and w <- w - learning_rate * v.

    Args:
        learning_rate: a number or a schedule.
        momentum: in [0, 1).
        l2: coefficient of the weights in the gradient.
        clip_norm: largest global norm of the gradient before L2; None does not clip.

    Source: PyTorch's `SGD` and `clip_grad_norm_`, as in the official recipe.
    """

    def __init__(
        self,
        learning_rate: Any = 0.025,
        momentum: float = 0.9,
        l2: float = 3e-4,
        clip_norm: float | None = 5.0,
        name: str = "momentum_sgd",
        **kwargs: Any,
    ):
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.momentum = momentum
        self.l2 = l2
        self.clip_norm = clip_norm

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self.velocities = self.add_optimizer_variables(variables, "velocity")

    def _clip(self, gradients):
        if self.clip_norm is None:
            return gradients
        norm = tf.linalg.global_norm(gradients)
        factor = tf.minimum(self.clip_norm / (norm + 1e-6), 1.0)
        return [gradient * factor for gradient in gradients]

    def update_step(self, gradient, variable, learning_rate):
        velocity = self.velocities[self._get_variable_index(variable)]
        dtype = variable.dtype
        # One node a variable: a supernet has hundreds of them.
        tf.raw_ops.ResourceApplyMomentum(
            var=variable.handle,
            accum=velocity.value.handle,
            lr=tf.cast(learning_rate, dtype),
            grad=gradient + constant(self.l2, dtype) * variable,
            momentum=constant(self.momentum, dtype),
        )

    def get_config(self):
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "l2": self.l2,
            "clip_norm": self.clip_norm,
        }


@keras.saving.register_keras_serializable(PACKAGE)
class L2Adam(_Optimizer, keras.optimizers.Adam):
    """Adam whose gradient includes L2 regularisation (not decoupled weight decay).

    Args:
        learning_rate: a number or a schedule.
        beta_1, beta_2, epsilon: as in Keras' Adam.
        l2: coefficient of the variables in the gradient.

    Source: the official recipe for the alphas.
    """

    def __init__(
        self,
        learning_rate: Any = 3e-4,
        beta_1: float = 0.5,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        l2: float = 1e-3,
        name: str = "l2_adam",
        **kwargs: Any,
    ):
        super().__init__(
            learning_rate=learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            name=name,
            **kwargs,
        )
        self.l2 = l2

    def update_step(self, gradient, variable, learning_rate):
        dtype = variable.dtype
        gradient = gradient + constant(self.l2, dtype) * variable
        index = self._get_variable_index(variable)
        mean, square = self._momentums[index], self._velocities[index]
        self.assign_add(mean, (gradient - mean) * tf.constant(1 - self.beta_1, dtype))
        self.assign_add(
            square,
            (tf.square(gradient) - square) * tf.constant(1 - self.beta_2, dtype),
        )
        step = tf.cast(learning_rate, tf.float64) * self._bias_correction()
        step = tf.cast(step, dtype) * mean
        self.assign_sub(variable, step / (tf.sqrt(square) + self.epsilon))

    def _bias_correction(self):
        """In float64: 1 - beta_2^t loses five digits in Keras' float32."""
        time = tf.cast(self.iterations + 1, tf.float64)
        first, second = (
            1 - tf.pow(tf.constant(beta, tf.float64), time)
            for beta in (self.beta_1, self.beta_2)
        )
        return tf.sqrt(second) / first

    def get_config(self):
        return {**super().get_config(), "l2": self.l2}


@keras.saving.register_keras_serializable(PACKAGE)
class EpochCosine(keras.optimizers.schedules.LearningRateSchedule):
    """Cosine decay from `initial` to `minimum`, constant within an epoch.

    In epoch t of T the rate is minimum + (initial - minimum) * (1 + cos(pi t / T)) / 2.

    Args:
        initial: learning rate of epoch 0.
        minimum: the rate after the last epoch, which no step uses.
        epochs: length of the run, T.
        steps_per_epoch: optimizer steps in an epoch.

    Source: PyTorch's `CosineAnnealingLR`, stepped once an epoch.
    """

    def __init__(
        self, initial: float, minimum: float, epochs: int, steps_per_epoch: int
    ):
        super().__init__()
        self.initial = initial
        self.minimum = minimum
        self.epochs = epochs
        self.steps_per_epoch = steps_per_epoch

    def __call__(self, step):
        epoch = tf.cast(step, tf.int64) // self.steps_per_epoch
        angle = np.pi * tf.cast(epoch, tf.float32) / self.epochs
        return self.minimum + (self.initial - self.minimum) * (1 + tf.cos(angle)) / 2

    def get_config(self):
        return {
            "initial": self.initial,
            "minimum": self.minimum,
            "epochs": self.epochs,
            "steps_per_epoch": self.steps_per_epoch,
        }


@keras.saving.register_keras_serializable(PACKAGE)
class OneCycle(keras.optimizers.schedules.LearningRateSchedule):
    """Linear from 0 to `peak` in the first half of the steps, then linear to 0.

    Step i of n has the rate peak * (1 - |2 i / n - 1|), the first one 0, and so have
    those after the last.

    Args:
        peak: largest learning rate.
        steps: optimizer steps in the run.

    Source: PyTorch's `CyclicLR` as Wong et al., arXiv 2001.03994, use it on CIFAR-10.
    """

    def __init__(self, peak: float, steps: int):
        super().__init__()
        self.peak = peak
        self.steps = steps

    def __call__(self, step):
        done = tf.minimum(tf.cast(step, tf.float32) / self.steps, 1)
        return self.peak * (1 - tf.abs(2 * done - 1))

    def get_config(self):
        return {"peak": self.peak, "steps": self.steps}
