"""A Keras model whose steps run on every replica of its `tf.distribute` strategy."""

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context

from advrush_tf.inputs import check_count, check_labels, check_weights
from advrush_tf.nn.image_model import ImageModel

_NO_LOSS = "the model has its own losses (the objective of a fit, gamma of a search)"
_NO_METRICS = "it always measures losses and accuracies; leave it out"
_NOT_COMPILED = {
    "loss": _NO_LOSS,
    "loss_weights": _NO_LOSS,
    "metrics": _NO_METRICS,
    "weighted_metrics": _NO_METRICS,
    "steps_per_execution": "every batch is checked before its step; leave it out",
    "auto_scale_loss": "float16, which needs it, is not supported; leave it out",
}


class ReplicatedModel(ImageModel):
    """Base of the models that `fit` trains, on one device or under a strategy.

    Made and compiled in a strategy's scope, a model reports the metrics of all
    replicas' examples. (Keras' own loop averages over the replicas, however many
    examples each had, and fails with several workers.) A subclass is built in its
    constructor.

    Every batch is checked before its step: images, labels and weights of examples.
    """

    train_function: Any
    test_function: Any

    def compile_with(
        self,
        optimizer: Any,
        run_eagerly: bool = False,
        jit_compile: bool = False,
        others: Mapping[str, Any] | None = None,
    ) -> None:
        """Sets the optimizer and how steps are compiled.

        For the `compile` of subclasses, which take further arguments.

        Args:
            optimizer, run_eagerly, jit_compile: as in Keras.
            others: arguments of Keras' `compile` that are refused, with the reason.

        Raises:
            ValueError: there are such arguments, or several replicas and XLA, which
                cannot add up over devices.
        """
        for name in others or ():
            reason = _NOT_COMPILED.get(name, "it has no such argument")
            raise ValueError(f"compile of this model takes no {name}: {reason}")
        replicas = self.distribute_strategy.num_replicas_in_sync
        if jit_compile and replicas > 1:
            raise ValueError(
                f"jit_compile works on one replica, not on this strategy's {replicas}"
            )
        keras.Model.compile(
            self,
            optimizer=optimizer,
            run_eagerly=run_eagerly,
            jit_compile=jit_compile,
            auto_scale_loss=False,
        )

    def as_graph(
        self, function: Callable, jit_compile: bool = False, optimised: bool = True
    ) -> Callable:
        """Compiles a function to a graph, unless the model runs eagerly.

        Args:
            function: of tensors.
            jit_compile: compiles it with XLA.
            optimised: False leaves TensorFlow's optimiser of graphs out, which takes
                longer than the first ten steps and makes none of a search's faster but
                the penalty's.
        """
        if self.run_eagerly:
            return function
        compiled = tf.function(function, autograph=False, jit_compile=jit_compile)
        return compiled if optimised else _Unoptimised(compiled)

    def on_replicas(self, step: Callable) -> Callable:
        """Returns a function that runs a step on all replicas.

        Its value is that of the first replica.

        Args:
            step: takes a replica's pieces of the batches.
        """
        strategy = self.distribute_strategy

        def run(*arguments):
            results = strategy.run(step, arguments)
            return tf.nest.map_structure(
                lambda value: strategy.experimental_local_results(value)[0], results
            )

        return run

    def measured(self, step: Callable) -> Callable:
        """Returns a function that runs a step on all replicas, for its metrics.

        The metrics count the examples of all replicas.

        Args:
            step: updates metrics and returns a dictionary with their names, and with
                other values, which remain those of the first replica.
        """
        run = self.on_replicas(step)

        def measure(*arguments):
            found = run(*arguments)
            return found | {m.name: m.result() for m in self.metrics if m.name in found}

        return measure

    def make_train_function(self, force=False):
        if self.train_function is None or force:
            self.train_function = self._function(self.train_step)
        return self.train_function

    def make_test_function(self, force=False):
        if self.test_function is None or force:
            self.test_function = self._function(self.test_step)
        return self.test_function

    def _function(self, step: Callable) -> Callable:
        measure = self.as_graph(self.measured(step), self.jit_compile)
        trains = step == self.train_step
        check = self.check_training_batch if trains else self.check_batch

        def run(iterator):
            x, y, weights = keras.utils.unpack_x_y_sample_weight(next(iterator))
            batch = x, as_array(y), as_array(weights)
            check(*batch)
            return measure(batch)

        return run

    def evaluate(self, x=None, y=None, *args, **kwargs):
        """Evaluates, as in Keras.

        Raises:
            ValueError: images are not floats in [0, 1], or labels or weights are wrong.
        """
        return super().evaluate(x, as_array(y), *args, **kwargs)

    def check_batch(self, x: Any, y: Any, weights: Any = None) -> None:
        """Checks a batch, of one replica or of several, before its step.

        Args:
            x: images.
            y: labels, see `as_labels`.
            weights: of the examples; None if there are none.

        Raises:
            ValueError: images are not floats in [0, 1], or labels or weights are wrong.
        """
        self.check_images(x)
        pieces = self.distribute_strategy.experimental_local_results
        for images, labels in zip(pieces(x), pieces(y), strict=True):
            check_labels(labels, self.num_classes)
            check_count(labels, images.shape[0])
        if weights is not None:
            for labels, part in zip(pieces(y), pieces(weights), strict=True):
                check_weights(part, len(labels))

    def check_training_batch(self, x: Any, y: Any, weights: Any = None) -> None:
        """Checks a batch, as `check_batch` does, and that all replicas have images.

        Raises:
            ValueError: it is wrong, or a replica has none.
        """
        self.check_batch(x, y, weights)
        sizes = [len(p) for p in self.distribute_strategy.experimental_local_results(x)]
        if not all(sizes):
            raise ValueError(
                f"a replica has no images: the training batch has {sum(sizes)}, for "
                f"{len(sizes)} replicas; use another batch_size, or drop_remainder"
            )

    def _maybe_symbolic_build(self, *arguments, **keywords):
        """Does nothing: the models are built, and Keras' attempt fails with workers."""


class _Unoptimised:
    """A `tf.function` whose graphs run as they were traced."""

    def __init__(self, function: Callable):
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        # Of this thread, and of these calls alone; what else the user has set is kept.
        eager = context.context()
        options = eager.function_call_options
        config = tf.compat.v1.ConfigProto.FromString(options.config_proto_serialized)
        config.graph_options.rewrite_options.disable_meta_optimizer = True
        eager.function_call_options = context.FunctionCallOptions(
            options.executor_type, config
        )
        try:
            return self._function(*arguments)
        finally:
            eager.function_call_options = options

    def __getattr__(self, name: str) -> Any:
        return getattr(self._function, name)


def with_directions(callbacks: Any) -> list[keras.callbacks.Callback]:
    """Returns callbacks as a list; those on losses and accuracies need no `mode`.

    Keras finds the direction of its own metrics only.
    """
    if callbacks is None or isinstance(callbacks, keras.callbacks.Callback):
        callbacks = [callbacks] if callbacks else []
    for callback in callbacks:
        monitored = getattr(callback, "monitor", "")
        for ending, mode in (("accuracy", "max"), ("loss", "min")):
            if monitored.endswith(ending) and vars(callback).get("mode") == "auto":
                callback.mode = mode
    return list(callbacks)


def as_array(values: Any) -> Any:
    """Returns a list as an array, which Keras takes; anything else unchanged."""
    return np.asarray(values) if isinstance(values, list | tuple) else values
