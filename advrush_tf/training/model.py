"""A Keras model whose steps run on every replica of its `tf.distribute` strategy."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf


class ReplicatedModel(keras.Model):
    """Base of the models that `fit` trains, on one device or under a strategy.

    Made and compiled in a strategy's scope, a model reports the metrics of all
    replicas' examples. (Keras' own loop averages over the replicas, however many
    examples each had, and fails with several workers.) A subclass is built in its
    constructor.
    """

    train_function: Any
    test_function: Any

    def compile_with(
        self, optimizer: Any, run_eagerly: bool = False, jit_compile: bool = False
    ) -> None:
        """Sets the optimizer and how steps are compiled.

        For the `compile` of subclasses, which take further arguments.

        Raises:
            ValueError: there are several replicas and XLA, which cannot add up over
                devices.
        """
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

    def as_graph(self, function: Callable, jit_compile: bool = False) -> Callable:
        """Compiles a function to a graph, unless the model runs eagerly."""
        if self.run_eagerly:
            return function
        return tf.function(function, autograph=False, jit_compile=jit_compile)

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
            step: updates metrics and returns a dictionary with their names.
        """
        run = self.on_replicas(step)

        def measure(*arguments):
            names = run(*arguments)
            return {m.name: m.result() for m in self.metrics if m.name in names}

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
        return lambda iterator: measure(next(iterator))

    def _maybe_symbolic_build(self, *arguments, **keywords):
        """Does nothing: the models are built, and Keras' attempt fails with workers."""
