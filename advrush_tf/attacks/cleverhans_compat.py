"""CleverHans' attacks adapted to Keras 3, and with random numbers from outside.

CleverHans 4.0.0 was written for Keras 2. Its code runs here unchanged but for a few
global names that mean something else to it: classes that Keras 3 lacks, one wrong
shape, random numbers, which would come from TensorFlow's global state, and gradients,
which it does not follow where they are short or not finite. The library itself is not
modified for other users.
"""

import types
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from cleverhans.tf2.attacks import (
    carlini_wagner_l2,
    fast_gradient_method,
    momentum_iterative_method,
    projected_gradient_descent,
    spsa,
)

from advrush_tf.attacks.geometry import finite, scaled, with_gradient
from advrush_tf.attacks.losses import log_odds

# Of Keras' Adam.
_BETAS = (0.9, 0.999)
# Not Keras' 1e-7: pixels near 0 or 1, and models of small logits, have less gradient.
_ADAM_EPSILON = 1e-30


def _with_names(function: Callable, **names: Any) -> Callable:
    """A copy of a function to which these names of its module mean something else."""
    return types.FunctionType(
        function.__code__,
        function.__globals__ | names,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )


def _tensorflow(**names: Any) -> types.SimpleNamespace:
    """TensorFlow with some of its names replaced."""
    return types.SimpleNamespace(**vars(tf) | names)


@tf.function(autograph=False)
def scaled_gradient(
    model_fn: Callable, loss_fn: Any, x: tf.Tensor, y: tf.Tensor, targeted: bool
) -> tf.Tensor:
    """The direction in which the cross-entropy rises, its largest entry 1.

    CleverHans takes its length for at least 1e-6, and NaN for a number. Args are those
    of CleverHans' `compute_gradient`, of which an untargeted attack needs three.
    """
    del loss_fn, targeted
    return scaled(with_gradient(lambda images: log_odds(model_fn(images), y), x)[1])


fgsm = _with_names(
    fast_gradient_method.fast_gradient_method, compute_gradient=scaled_gradient
)
mim = _with_names(
    momentum_iterative_method.momentum_iterative_method,
    compute_gradient=scaled_gradient,
)


def pgd_from(start: tf.Tensor | None) -> Callable:
    """CleverHans' `projected_gradient_descent` with a given random start.

    Args:
        start: (batch, height, width, channels), added to the images first; None if
            the call asks for no random start.
    """
    return _with_names(
        projected_gradient_descent.projected_gradient_descent,
        random_lp_vector=lambda *_, **__: start,
        fast_gradient_method=fgsm,
    )


class CarliniWagnerL2(carlini_wagner_l2.CarliniWagnerL2):
    """CleverHans' attack with one weight an image, and with Keras 3's Adam."""

    # The weights come as tf.ones of the images' shape, which does not go with the
    # search's bounds, (batch,). The other ones are made of the shape (batch,).
    _attack = _with_names(
        carlini_wagner_l2.CarliniWagnerL2._attack,
        tf=_tensorflow(ones=lambda shape: tf.ones(shape[:1])),
    )

    def __init__(self, model_fn: Callable, **settings: Any):
        super().__init__(model_fn, **settings)
        self.optimizer = _Adam(self.learning_rate)


class _Adam:
    """Adam with the part of Keras 2's interface that CleverHans uses.

    Keras 3's knows only the variable that it saw first, and CleverHans has a new one
    for each batch.
    """

    def __init__(self, learning_rate: float):
        self._learning_rate = learning_rate

    def variables(self) -> list:
        """Begins anew: CleverHans asks for all state before a search, to zero it."""
        self._steps = 0
        return []

    def apply_gradients(self, pairs: list) -> None:
        ((gradient, variable),) = pairs
        gradient = finite(gradient)
        if not self._steps:
            zero = tf.zeros_like(gradient)
            self._mean, self._square = tf.Variable(zero), tf.Variable(zero)
        self._steps += 1
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._mean.handle,
            v=self._square.handle,
            beta1_power=_BETAS[0] ** self._steps,
            beta2_power=_BETAS[1] ** self._steps,
            lr=self._learning_rate,
            beta1=_BETAS[0],
            beta2=_BETAS[1],
            epsilon=_ADAM_EPSILON,
            grad=gradient,
        )


class _SPSAAdam:
    """CleverHans' class of this name without its base, an optimizer of Keras 2.

    It uses three numbers of the base and nothing else.
    """

    beta_1, beta_2 = _BETAS
    epsilon = _ADAM_EPSILON

    init_state = spsa.SPSAAdam.init_state
    minimize = spsa.SPSAAdam.minimize
    _apply_gradients = spsa.SPSAAdam._apply_gradients

    def __init__(self, lr: float, delta: float, num_samples: int, num_iters: int):
        self.lr, self._delta = lr, delta
        # Each sample goes with its opposite.
        self._num_samples, self._num_iters = num_samples // 2, num_iters

    def _compute_gradients(self, loss_fn, x):
        return spsa.SPSAAdam._compute_gradients(
            self, lambda images: finite(loss_fn(images)), x
        )


def spsa_drawing_from(generator: tf.random.Generator) -> Callable:
    """CleverHans' `spsa` that takes its random numbers from a generator."""
    seeded = _tensorflow(random=generator)

    class Adam(_SPSAAdam):
        _get_delta = _with_names(spsa.SPSAAdam._get_delta, tf=seeded)

    return _with_names(
        spsa.spsa,
        SPSAAdam=Adam,
        projected_optimization=_with_names(spsa.projected_optimization, tf=seeded),
    )
