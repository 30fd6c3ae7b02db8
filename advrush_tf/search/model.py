"""AdvRushSearchModel: differentiable architecture search as a Keras model."""

import contextlib
import threading
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from advrush_tf import replication
from advrush_tf.errors import NonFiniteLossError
from advrush_tf.genotypes.genotype import Genotype
from advrush_tf.genotypes.search_space import PRIMITIVES, check_primitives
from advrush_tf.inputs import check_dtype
from advrush_tf.nn.checks import (
    PAIRS_NEEDED,
    check_architecture,
    check_normalisation,
    check_pairs_for_fit,
    check_precision,
    normalise,
)
from advrush_tf.nn.constants import constant
from advrush_tf.nn.supernet import Supernet
from advrush_tf.search.step import SearchSteps, example_losses, share_of_norm
from advrush_tf.training import optimizers
from advrush_tf.training.model import ReplicatedModel, with_directions
from advrush_tf.variables import of_one_name
from advrush_tf.version import PACKAGE

_METRICS = (
    *("loss", "accuracy", "alpha_loss", "alpha_accuracy"),
    *("entropy", "penalty", "penalty_share"),
)


@keras.saving.register_keras_serializable(PACKAGE)
class AdvRushSearchModel(ReplicatedModel):
    """A supernet whose weights and alphas `fit` trains in turn.

    Args:
        num_classes: number of classes, at least 2.
        image_shape: (height, width, channels); each reduction cell halves the sides.
        init_channels: channels of the first cell.
        num_cells: number of cells.
        num_nodes: intermediate nodes of a cell.
        stem_multiplier: width of the stem, in `init_channels`.
        primitives: candidate operations.
        mean, std: per channel, in [0, 1]; the images are normalised by them inside the
            model. None does not normalise.
        synchronized: see `Block`.
        recompute_cells: whether the backward pass computes each cell again instead of
            keeping its activations: less memory, more time.

    Call arguments:
        x: (batch, height, width, channels), float in [0, 1].
        training: batch normalisation mode.

    Output shape:
        (batch, num_classes), logits.

    Attributes:
        epoch: epochs of `fit` that are behind it, for the warm-up; saved with the
            weights.

    Raises:
        ValueError: a number is out of range, the images are too small, or the dtype
            policy computes in float16.

    Source: Mok et al., AdvRush, ICCV 2021, algorithm 1.
    """

    def __init__(
        self,
        num_classes: int,
        image_shape: Sequence[int],
        init_channels: int = 16,
        num_cells: int = 8,
        num_nodes: int = 4,
        stem_multiplier: int = 3,
        primitives: Sequence[str] = PRIMITIVES,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        synchronized: bool = True,
        recompute_cells: bool = False,
        **kwargs: Any,
    ):
        kwargs.setdefault("autocast", False)
        super().__init__(**kwargs)
        check_precision(self.compute_dtype)
        check_architecture(
            num_classes=num_classes,
            image_shape=image_shape,
            init_channels=init_channels,
            num_cells=num_cells,
            num_nodes=num_nodes,
            stem_multiplier=stem_multiplier,
        )
        check_primitives(primitives)
        check_normalisation(mean, std, image_shape[-1])
        self._config: dict[str, Any] = {
            "num_classes": num_classes,
            "image_shape": tuple(image_shape),
            "init_channels": init_channels,
            "num_cells": num_cells,
            "num_nodes": num_nodes,
            "stem_multiplier": stem_multiplier,
            "primitives": tuple(primitives),
            "mean": None if mean is None else tuple(mean),
            "std": None if std is None else tuple(std),
            "synchronized": synchronized,
            "recompute_cells": recompute_cells,
        }
        self.supernet = Supernet(
            num_classes,
            init_channels,
            num_cells,
            num_nodes,
            stem_multiplier,
            tuple(primitives),
            recompute_cells,
            dtype=self.dtype_policy,
            synchronized=synchronized,
            name="supernet",
        )
        self._trackers = {
            name: keras.metrics.Mean(name, self.variable_dtype) for name in _METRICS
        }
        self.epoch = 0
        self.build((None, *image_shape))

    def build(self, input_shape):
        self.supernet.build(input_shape)
        self.built = True

    def call(self, x, training=False):
        return self.logits_of(self.normalised(x), training)

    def normalised(self, x):
        """Normalises images for the supernet, in the dtype of the weights.

        Args:
            x: (batch, height, width, channels), in [0, 1].

        Returns:
            The same shape, normalised by the model's mean and standard deviation.
        """
        check_dtype(x)
        x = tf.cast(x, self.variable_dtype)
        return normalise(x, self._config["mean"], self._config["std"])

    def logits_of(self, normalised, training):
        """Logits of images that `normalised` gave, in the dtype of the weights.

        Args:
            normalised: (batch, height, width, channels).
            training: batch normalisation mode.

        Returns:
            (batch, num_classes).
        """
        x = tf.cast(normalised, self.compute_dtype)
        return tf.cast(self.supernet(x, training=training), self.variable_dtype)

    def mixed_logits(self, x, normal, reduce, training=False):
        """Logits under given mixing weights in place of the softmax of the alphas.

        Args:
            x, training: as for a call.
            normal, reduce: (edges, operations), in the dtype of the alphas; for
                derivatives in them, see `Supernet.mix`.

        Returns:
            (batch, num_classes), logits.
        """
        x = tf.cast(self.normalised(x), self.compute_dtype)
        logits = self.supernet.mix(x, normal, reduce, training=training)
        return tf.cast(logits, self.variable_dtype)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the images."""
        return self._config["image_shape"]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self._config["num_classes"]

    @property
    def init_channels(self) -> int:
        """Channels of the first cell."""
        return self._config["init_channels"]

    @property
    def gamma(self) -> float:
        """Weight of the penalty in the alphas' loss."""
        return self._penalty["gamma"]

    @property
    def alphas(self) -> list[keras.Variable]:
        """The alphas of the normal and of the reduction cell, (edges, operations)."""
        return [self.supernet.alphas_normal, self.supernet.alphas_reduce]

    @property
    def network_weights(self) -> list[keras.Variable]:
        """All trainable weights but the alphas."""
        alphas = {id(variable) for variable in self.alphas}
        return [v for v in self.trainable_variables if id(v) not in alphas]

    def genotype(self, provenance: Mapping[str, Any] | None = None) -> Genotype:
        """Derives the genotype of the current alphas."""
        normal, reduce = (np.asarray(alphas) for alphas in self.alphas)
        primitives = self._config["primitives"]
        return Genotype.from_alphas(normal, reduce, primitives, provenance)

    def entropy(self) -> tf.Tensor:
        """Mean entropy, in nats, of the softmax of an edge's alphas."""
        log_weights = [tf.nn.log_softmax(alphas.value) for alphas in self.alphas]
        return -tf.reduce_mean([tf.reduce_sum(tf.exp(w) * w, -1) for w in log_weights])

    def compile(
        self,
        optimizer: Any = None,
        alpha_optimizer: Any = None,
        gamma: float = 0.01,
        lambda_: float = 4.0,
        h: float = 1.5,
        warmup_epochs: int = 50,
        squared: bool = False,
        penalty_batch: int | None = None,
        run_eagerly: bool = False,
        jit_compile: bool = False,
        **others: Any,
    ) -> None:
        """Sets the optimizers and the penalty; the defaults are the official recipe.

        The recipe's cosine of the learning rate alone has no default: it depends on the
        number of steps, see `EpochCosine`.

        Args:
            optimizer: of the weights; by default `MomentumSGD()`.
            alpha_optimizer: of the alphas; by default `L2Adam()`.
            gamma: weight of the penalty in the alphas' loss; 0 is first-order DARTS.
            lambda_: factor inside the penalty.
            h: length of the penalty's probe, in normalised input units.
            warmup_epochs: epochs without the penalty, those of an earlier `fit` or of
                the process that saved the model included. A fit that ends within them
                warns.
            squared: penalise the squared norm (CURE) instead of the norm.
            penalty_batch: images of the penalty at a time on a replica, a divisor of
                its part of the batch or no less than it. By default all at once, but on
                a processor with 32x32 pixels and 16 channels or more the largest number
                from 8 to 16 that divides it: less memory and no more time.
            run_eagerly: whether to run without compiling to graphs.
            jit_compile: whether to compile with XLA (all but the penalty, which takes
                XLA minutes even of a small network).
            **others: other arguments of Keras' `compile`, which are refused.

        Raises:
            ValueError: a number is out of range; see also `ReplicatedModel`.
        """
        for name, value in (("gamma", gamma), ("warmup_epochs", warmup_epochs)):
            if not 0 <= value < np.inf:
                raise ValueError(f"{name} must be 0 or more and finite, not {value}")
        for name, value in (("lambda_", lambda_), ("h", h)):
            if not 0 < value < np.inf:
                raise ValueError(f"{name} must be positive and finite, not {value}")
        if penalty_batch is not None and penalty_batch < 1:
            raise ValueError(f"penalty_batch must be 1 or more, not {penalty_batch}")
        self.compile_with(
            optimizer or optimizers.MomentumSGD(), run_eagerly, jit_compile, others
        )
        self.alpha_optimizer = keras.optimizers.get(
            alpha_optimizer or optimizers.L2Adam()
        )
        self._penalty: dict[str, Any] = {
            "gamma": gamma,
            "lambda_": lambda_,
            "h": h,
            "warmup_epochs": warmup_epochs,
            "squared": squared,
            "penalty_batch": penalty_batch,
        }
        # Keras would build the optimizer for all trainable variables, alphas included.
        with of_one_name():
            self.optimizer.build(self.network_weights)
            self.alpha_optimizer.build(self.alphas)
        self.last_step: dict[str, Any] = {}
        self._epochs = 0  # At which the current `fit` ends.
        self._tracing: threading.Thread | None = None
        self._compile_steps()

    def _compile_steps(self) -> None:
        """Compiles each part of a step separately.

        The graph of the penalty is by far the largest. As a separate function it is
        traced when the warm-up ends, or beside it, and nothing else is traced again.
        """
        parts = SearchSteps(self, self._penalty)
        steps = {
            "alpha_gradients": self.on_replicas(parts.alpha_gradients),
            "penalty_gradients": self.on_replicas(parts.penalty_gradients),
            "update_alphas": self.on_replicas(parts.update_alphas),
            "update_weights": self.on_replicas(parts.update_weights),
            "track": self.measured(self._track),
        }
        # XLA has no kernel for the second derivative of max pooling.
        self.steps: dict[str, Any] = {
            name: self.as_graph(
                step,
                self.jit_compile and name != "penalty_gradients",
                optimised=name == "penalty_gradients",
            )
            for name, step in steps.items()
        }

    @property
    def checkpoint_groups(self) -> dict[str, list[keras.Variable]]:
        """The variables that a resumed search needs, by owner."""
        return {
            "model": self.supernet.weights,
            "optimizer": self.optimizer.variables,
            "alpha_optimizer": self.alpha_optimizer.variables,
        }

    def get_compile_config(self):
        if not self.compiled:
            return None
        return {
            "optimizer": keras.saving.serialize_keras_object(self.optimizer),
            "alpha_optimizer": keras.saving.serialize_keras_object(
                self.alpha_optimizer
            ),
            **self._penalty,
            "run_eagerly": self.run_eagerly,
            "jit_compile": self.jit_compile,
        }

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return list(self._trackers.values())

    def fit(self, x=None, y=None, *args, callbacks=None, **kwargs):
        """Searches; arguments as in Keras, but `x` is a dataset of pairs.

        Raises:
            ValueError: the data is not made of pairs, or weighted.
            NonFiniteLossError: a loss became NaN or infinite.
        """
        for name in ("class_weight", "sample_weight"):
            if kwargs.get(name) is not None:
                raise ValueError(
                    f"a search takes no {name}: both halves must weigh examples alike; "
                    "repeat those that are to count more"
                )
        check_pairs_for_fit(x, y, kwargs.get("steps_per_epoch"))
        kwargs.setdefault("shuffle", False)
        callbacks = [_EpochCount(), *with_directions(callbacks)]
        try:
            return super().fit(x, None, *args, callbacks=callbacks, **kwargs)
        finally:
            self._epochs = 0
            self._wait_for_tracing()

    def summary(self, *args, **kwargs):
        """Prints the supernet's parts, as in Keras, with their shapes."""
        self.compute_output_spec(keras.KerasTensor((None, *self.image_shape)))
        # Keras shows the layers of a model only, and the supernet is one layer.
        parts = keras.Model(name=self.name)
        parts.alphas = self.alphas
        parts.stem, parts.cells = self.supernet.stem, self.supernet.cells
        parts.classifier = self.supernet.classifier
        parts.built = True
        parts.summary(*args, **kwargs)

    def make_train_function(self, force=False):
        # The parts of a step are compiled, not the step: see `_compile_steps`.
        self.train_function = lambda iterator: self.train_step(_pair(next(iterator)))
        return self.train_function

    @property
    def penalised(self) -> bool:
        """True if the alpha steps of the current epoch include the penalty."""
        warm = self.epoch >= self._penalty["warmup_epochs"]
        return warm and self.gamma > 0

    def train_step(self, data):
        """One alternating step: first the alphas, then the weights.

        Args:
            data: ((x_w, y_w), (x_a, y_a)), a batch of each half.

        Returns:
            The running means of the metrics in this epoch.
        """
        try:
            (x_w, y_w), (x_a, y_a) = data
        except (TypeError, ValueError):
            raise ValueError(PAIRS_NEEDED) from None
        self.check_training_batch(x_w, y_w)
        self.check_training_batch(x_a, y_a)
        alpha_loss, alpha_accuracy, gradients = self.steps["alpha_gradients"](x_a, y_a)
        # Tensors in the warm-up too, or tracking them would be traced again after it.
        penalty = share = constant(0.0, self.variable_dtype)
        if self.penalised:
            self._wait_for_tracing()
            penalty, penalty_gradients = self.steps["penalty_gradients"](x_a, y_a)
            share = share_of_norm(penalty_gradients, gradients)
            both = zip(gradients, penalty_gradients, strict=True)
            gradients = [a + b for a, b in both]
        # Before the update: a poisoned alpha would spoil everything after it.
        self._check_finite(alpha_loss=alpha_loss)
        norm = tf.linalg.global_norm(gradients)
        self._check_finite(penalty=penalty, alpha_gradient_norm=norm)
        self.steps["update_alphas"](gradients)
        loss, accuracy = self.steps["update_weights"](x_w, y_w)
        values = {
            "loss": loss,
            "accuracy": accuracy,
            "alpha_loss": alpha_loss,
            "alpha_accuracy": alpha_accuracy,
            "penalty": penalty,
            "penalty_share": share,
            "entropy": self.entropy(),
        }
        self._check_finite(loss=loss)
        self.last_step = values
        tracked = self.steps["track"](values)
        if not self.penalised:
            self._trace_ahead(x_a, y_a)
        return tracked

    def _trace_ahead(self, x, y):
        """Begins to trace the penalty, beside the warm-up's steps, if one will come.

        Tracing is Python's work and takes one core; a step is not.
        """
        will_come = self.gamma > 0 and self._epochs > self._penalty["warmup_epochs"]
        one_replica = self.distribute_strategy.num_replicas_in_sync == 1
        if self._tracing or not will_come or self.run_eagerly or not one_replica:
            return

        def trace():
            # What goes wrong here does so again, and is told, when the step comes.
            with contextlib.suppress(Exception):
                self.steps["penalty_gradients"].get_concrete_function(x, y)

        self._tracing = threading.Thread(target=trace, daemon=True)
        self._tracing.start()

    def _wait_for_tracing(self) -> None:
        if self._tracing:
            self._tracing.join()
            self._tracing = None

    def _check_finite(self, **losses: Any) -> None:
        for name, loss in losses.items():
            if not np.isfinite(value := float(loss)):
                raise NonFiniteLossError(
                    f"{name} became {value} in epoch {self.epoch + 1}, after "
                    f"{int(self.alpha_optimizer.iterations.numpy())} alpha steps and "
                    f"{int(self.optimizer.iterations.numpy())} weight steps"
                )

    def _track(self, values):
        for name, value in values.items():
            self._trackers[name].update_state(value)
        return values

    def test_step(self, data):
        x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
        x = tf.convert_to_tensor(x)
        logits = replication.even_if_empty(lambda x: self(x, training=False), x)
        losses, hits = example_losses(logits, y)
        if weights is not None:
            weights = tf.cast(tf.reshape(weights, [-1]), losses.dtype)
            losses *= weights
        self._trackers["loss"].update_state(losses)
        self._trackers["accuracy"].update_state(hits, sample_weight=weights)
        return {name: self._trackers[name].result() for name in ("loss", "accuracy")}

    # The model has no variables but its layers'.
    def save_own_variables(self, store):
        store["epoch"] = self.epoch

    def load_own_variables(self, store):
        # Files of before have none.
        self.epoch = int(store["epoch"]) if "epoch" in store else 0

    def get_config(self):
        return {**super().get_config(), **self._config}


def _pair(data):
    """The pair of batches also of `train_on_batch`, which gives (pair, None, None)."""
    pair, *others = data
    return pair if len(others) == 2 and others[0] is others[1] is None else data


class _EpochCount(keras.callbacks.Callback):
    """Counts the epochs of the model, over several calls of `fit`."""

    def on_train_begin(self, logs=None):
        model, epochs = self.model, self.params["epochs"]
        model._epochs = epochs
        warmup = model._penalty["warmup_epochs"]
        if model.gamma > 0 and model.epoch + epochs <= warmup:
            warnings.warn(
                "no step of this fit has the penalty: it ends after epoch "
                f"{model.epoch + epochs}, and compile's warmup_epochs is {warmup}",
                stacklevel=2,
            )

    def on_epoch_begin(self, epoch, logs=None):
        # A run that is resumed knows more epochs than a new model.
        self.model.epoch = max(epoch, self.model.epoch)

    def on_epoch_end(self, epoch, logs=None):
        self.model.epoch += 1
