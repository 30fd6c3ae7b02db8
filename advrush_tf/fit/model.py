"""AdvRushFitModel: fits a network under an objective, as a Keras model."""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from advrush_tf import replication
from advrush_tf.attacks.losses import is_wrong, log_odds
from advrush_tf.attacks.pgd import SignAscent
from advrush_tf.custom_gradient import custom_gradient
from advrush_tf.fit.objectives import Objective
from advrush_tf.fit.weights import WeightAverage, perturbed, restored_afterwards
from advrush_tf.inputs import (
    are_probabilities,
    check_dtype,
    class_numbers,
    warn_of_probabilities,
)
from advrush_tf.losses import cross_entropy
from advrush_tf.nn.cell_network import CellNetwork
from advrush_tf.nn.checks import check_precision
from advrush_tf.training.model import ReplicatedModel, as_array, with_directions
from advrush_tf.training.optimizers import MomentumSGD
from advrush_tf.variables import of_one_name
from advrush_tf.version import PACKAGE

# Robust accuracy is always measured from the same start.
_EVALUATION_SEED = (20, 20)


@keras.saving.register_keras_serializable(PACKAGE)
class AdvRushFitModel(ReplicatedModel):
    """Fits the weights of a classifier under an objective, in `fit`.

    The network is saved and attacked afterwards; this model only fits it.

    Args:
        network: a Keras model of images in [0, 1] that gives logits. The regularizers
            of its weights, if any, add to the loss as in Keras.
        objective: the losses to minimise, see `advrush_tf.fit.objectives`.
        auxiliary_weight: of the loss of a `CellNetwork`'s auxiliary head; 0 leaves the
            head out.
        awp_gamma: length of the adversarial weight perturbation over the length of
            each kernel; 0 is none.
        ema_decay: of the average of the weights that `evaluate` and `predict` use and
            `averaged` gives; 0 is none.
        evaluation_attack: with which `evaluate` measures the robust accuracy; None
            measures the clean accuracy alone.
        seed: of the attacks' starts.

    Call arguments and output shape are those of the network.

    Raises:
        ValueError: a number is out of range, there is no auxiliary head to weigh, or
            the network computes in float16 or regularises its activations.
    """

    def __init__(
        self,
        network: keras.Model,
        objective: Objective,
        auxiliary_weight: float = 0.0,
        awp_gamma: float = 0.0,
        ema_decay: float = 0.0,
        evaluation_attack: SignAscent | None = None,
        seed: int = 0,
        **kwargs: Any,
    ):
        kwargs.setdefault("autocast", False)
        kwargs.setdefault("dtype", network.dtype_policy)
        super().__init__(**kwargs)
        check_precision(self.compute_dtype)
        for name, value in (
            ("auxiliary_weight", auxiliary_weight),
            ("awp_gamma", awp_gamma),
        ):
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name} must be 0 or more, not {value}")
        if any(part.activity_regularizer for part in network._flatten_layers()):
            raise ValueError(
                "the network has an activity_regularizer, which would count each of an "
                "attack's passes too; take it out"
            )
        if auxiliary_weight and getattr(network, "auxiliary_head", None) is None:
            raise ValueError("auxiliary_weight needs a network with an auxiliary head")
        if not network.built:
            raise ValueError(
                "the network has no weights yet: give it an Input, or call it once"
            )
        self.network = network
        self.objective = objective
        self.auxiliary_weight = auxiliary_weight
        self.awp_gamma = awp_gamma
        self.ema_decay = ema_decay
        self.evaluation_attack = evaluation_attack
        self.seed = seed
        self._class_weight: dict[int, float] | None = None
        self._num_classes: Any = getattr(network, "num_classes", None)
        # Of the first and the last batch: to read all would wait for each step.
        self._findings: list[tf.Tensor] = []
        self.average = None
        if ema_decay:
            self.average = WeightAverage(network.weights, ema_decay)
        self._trackers = {
            name: keras.metrics.Mean(name, self.variable_dtype)
            for name in ("loss", "accuracy", "robust_accuracy")
        }
        self._bad_gradients = keras.metrics.Sum("bad_gradients")
        self.built = True

    def call(self, x, training=False):
        check_dtype(x)
        return self.network(x, training=training)

    def compile(
        self,
        optimizer: Any = None,
        run_eagerly: bool = False,
        jit_compile: bool = False,
        **others: Any,
    ) -> None:
        """Sets the optimizer of the weights, by default `MomentumSGD()`.

        XLA is off unless asked for; other arguments of Keras' `compile` are refused.

        Raises:
            ValueError: see `ReplicatedModel`.
        """
        self.compile_with(optimizer or MomentumSGD(), run_eagerly, jit_compile, others)
        with of_one_name():
            self.optimizer.build(self.trainable_variables)

    @property
    def checkpoint_groups(self) -> dict[str, list[keras.Variable]]:
        """All variables that a fit needs to go on exactly, by owner."""
        return {"model": self.variables, "optimizer": self.optimizer.variables}

    def get_compile_config(self):
        if not self.compiled:
            return None
        return {
            "optimizer": keras.saving.serialize_keras_object(self.optimizer),
            "run_eagerly": self.run_eagerly,
            "jit_compile": self.jit_compile,
        }

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return list(self._trackers.values())

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the network's images."""
        return self.network.image_shape

    @property
    def num_classes(self) -> int | None:
        return self._num_classes

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Puts the averaged weights, if any, into the network inside a `with`."""
        with self.average.in_use() if self.average else contextlib.nullcontext():
            yield

    def fit(
        self,
        x=None,
        y=None,
        *args,
        callbacks=None,
        validation_data=None,
        validation_split=0.0,
        class_weight=None,
        **kwargs,
    ):
        """Fits, as in Keras, and raises a network's drop path from epoch to epoch.

        Weights of examples multiply their losses and weigh accuracies; weights of
        classes multiply the losses alone.

        Warns of a network that gives probabilities, and of attacks that met gradients
        that are not finite: they take those for 0 and may miss what they would find.

        Raises:
            ValueError: images are not floats in [0, 1], or labels or weights are wrong.
        """
        self._weigh_classes(class_weight)
        if isinstance(validation_data, tuple):
            images, *others = validation_data
            validation_data = images, *map(as_array, others)
        if validation_split:
            _warn_of_other_classes(y, validation_split)
        with self._watched():
            return super().fit(
                x,
                as_array(y),
                *args,
                callbacks=[_DropPathSchedule(), *with_directions(callbacks)],
                validation_data=validation_data,
                validation_split=validation_split,
                **kwargs,
            )

    def train_on_batch(
        self, x, y=None, sample_weight=None, class_weight=None, **kwargs
    ):
        """Takes one step, as in Keras; weights as in `fit`."""
        self._weigh_classes(class_weight)
        return super().train_on_batch(x, y, sample_weight, **kwargs)

    def evaluate(self, x=None, y=None, *args, **kwargs):
        """Evaluates, as in Keras, the averaged weights if there are any.

        Weights and warnings as in `fit`.
        """
        with self.averaged(), self._watched():
            return super().evaluate(x, y, *args, **kwargs)

    def predict(self, *args, **kwargs):
        """Predicts, as in Keras, with the averaged weights if there are any."""
        with self.averaged():
            return super().predict(*args, **kwargs)

    @contextlib.contextmanager
    def _watched(self):
        """Looks at the first and the last batch's logits, and for bad gradients."""
        self._findings = []
        yield
        if self._findings and not self._findings[0]:
            warn_of_probabilities(bool(self._findings[-1]))
        if self._bad_gradients.result() > 0:
            self._bad_gradients.reset_state()
            warnings.warn(
                "the gradient that the attack follows had NaN or infinite entries: "
                "they count as 0, and robust accuracy may be too high",
                stacklevel=4,
            )

    def _weigh_classes(self, weights: dict[int, float] | None) -> None:
        """Sets the weights of classes in the losses of the next training steps."""
        if weights != self._class_weight:
            self._class_weight = weights
            self.train_function = None  # They are constants of its graph.

    def check_batch(self, x, y, weights=None):
        if self._num_classes is None:
            shape = self.distribute_strategy.experimental_local_results(x)[0].shape
            images = keras.KerasTensor((None, *shape[1:]))
            self._num_classes = int(self.network.compute_output_spec(images).shape[-1])
        super().check_batch(x, y, weights)

    def _function(self, step):
        run = super()._function(step)

        def look_at_logits(iterator):
            logs = run(iterator)
            found = logs.pop(_PROBABILITIES)
            if not self._findings:
                warn_of_probabilities(bool(found))
            self._findings = [*self._findings[:1], found]
            return logs

        return look_at_logits

    def train_step(self, data):
        """One step: craft, perturb the weights if asked to, and lower the loss.

        Args:
            data: (x, y) or (x, y, sample_weight), that `check_batch` has seen.

        Returns:
            The running means of the metrics in this epoch, and whether the network
            seems to give probabilities.
        """
        x, y, sample_weight = _batch(data)
        factors = sample_weight
        if self._class_weight is not None:
            of_classes = tf.gather(self._weight_of_each_class(self._class_weight), y)
            factors = _weighted(of_classes, factors)
        batch = x, y, factors
        step = tf.cast(self.optimizer.iterations, tf.int64)
        seed = tf.stack([tf.constant(self.seed, tf.int64), step])
        crafted = self.objective.craft(self._followed, *batch[:2], seed)
        if self.awp_gamma:
            # This pass must leave no trace in the running statistics.
            with restored_afterwards(self.network.non_trainable_variables):
                ascent = replication.all_reduce_sum(
                    self._gradients(*batch, crafted)[-1]
                )
            with perturbed(self.trainable_variables, ascent, self.awp_gamma):
                results = self._gradients(*batch, crafted)
        else:
            results = self._gradients(*batch, crafted)
        losses, logits, gradients = results
        self.optimizer.apply(gradients, self.trainable_variables)
        self._agree_on_statistics()
        if self.average:
            self.average.update(self.optimizer.iterations - 1)
        return self._track(losses, y, logits, sample_weight)

    def _weight_of_each_class(self, given: dict[int, float]) -> tf.Tensor:
        classes = range(self._num_classes)
        if unknown := sorted(given.keys() - set(classes)):
            raise ValueError(
                f"class_weight names {unknown}; the classes are 0 to {classes[-1]}"
            )
        weights = [given.get(label, 1.0) for label in classes]
        return tf.constant(weights, self.variable_dtype)

    def _agree_on_statistics(self) -> None:
        """Averages per-replica running statistics."""
        if not getattr(self.network, "synchronized", False):
            states = self.network.non_trainable_variables
            replication.average([v for v in states if v.value.dtype.is_floating])

    def _gradients(self, x, y, weights, crafted):
        """Losses, the classifier's logits by metric, the weights' gradients.

        The losses are those of this replica's examples; the gradients its contribution
        to the whole batch's mean loss. Batch normalisation is in training mode.
        """
        values = [variable.value for variable in self.trainable_variables]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            losses, logits = self._example_losses(x, y, crafted)
            losses = _weighted(losses, weights) + self._regularisation()
            contribution = replication.mean_contribution(losses)
        zero = tf.UnconnectedGradients.ZERO
        gradients = tape.gradient(contribution, values, unconnected_gradients=zero)
        return losses, logits, gradients

    def _regularisation(self):
        """The sum of the network's own `kernel_regularizer`s and the like."""
        weights = self.trainable_variables
        return sum(w.regularizer(w) for w in weights if w.regularizer is not None)

    def _example_losses(self, x, y, crafted):
        heads: dict[str, list[tf.Tensor]] = {}
        if self.objective.needs_clean:
            heads["accuracy"] = self._heads(x)
        if self.objective.adversarial:
            heads["robust_accuracy"] = self._heads(crafted)
        weights = (1.0, self.auxiliary_weight) if self.auxiliary_weight else (1.0,)
        losses = [
            weight
            * self.objective.losses(
                y, *(heads[n][i] if n in heads else None for n in _IMAGES)
            )
            for i, weight in enumerate(weights)
        ]
        return tf.add_n(losses), {name: head[0] for name, head in heads.items()}

    def _heads(self, x):
        if self.auxiliary_weight:
            return self.network.with_auxiliary(x, training=True)
        return [self._logits(x, True)]

    def _logits(self, x, training):
        return tf.cast(self.network(x, training=training), self.variable_dtype)

    def _followed(self, x, training):
        """As `_logits`, for attacks: counts the gradients that are not finite."""

        @custom_gradient
        def counted(x):
            def gradient(upstream):
                finite = tf.reduce_all(tf.math.is_finite(upstream))
                self._bad_gradients.update_state(tf.cast(~finite, tf.float32))
                return upstream

            return tf.identity(x), gradient

        return self._logits(counted(x), training)

    def _evaluated(self, x, logits=None):
        logits = logits or self._logits
        return replication.even_if_empty(lambda x: logits(x, False), x)

    def _track(self, losses, y, logits, sample_weight):
        self._trackers["loss"].update_state(losses)
        for name, values in logits.items():
            hits = ~is_wrong(values, y)
            self._trackers[name].update_state(hits, sample_weight=sample_weight)
        found = {name: self._trackers[name].result() for name in ("loss", *logits)}
        return found | {_PROBABILITIES: are_probabilities(next(iter(logits.values())))}

    def test_step(self, data):
        x, y, sample_weight = _batch(data)
        logits = {"accuracy": self._evaluated(x)}
        if self.evaluation_attack is not None:
            crafted = self.evaluation_attack.craft(
                lambda z: log_odds(self._evaluated(z, self._followed), y),
                x,
                _EVALUATION_SEED,
            )
            logits["robust_accuracy"] = self._evaluated(crafted)
        losses = _weighted(cross_entropy(y, logits["accuracy"]), sample_weight)
        losses += self._regularisation()
        return self._track(losses, y, logits, sample_weight)

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "network": serialize(self.network),
            "objective": serialize(self.objective),
            "auxiliary_weight": self.auxiliary_weight,
            "awp_gamma": self.awp_gamma,
            "ema_decay": self.ema_decay,
            "evaluation_attack": serialize(self.evaluation_attack),
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        deserialize = keras.saving.deserialize_keras_object
        for name in ("network", "objective", "evaluation_attack"):
            config[name] = deserialize(config[name], custom_objects=custom_objects)
        return cls(**config)


# The metrics of the logits that `Objective.losses` takes, in its order.
_IMAGES = ("accuracy", "robust_accuracy")
# In a step's results: whether the network seems to give probabilities.
_PROBABILITIES = "probabilities"


def _warn_of_other_classes(y: Any, validation_split: float) -> None:
    """Warns if the last labels, which Keras holds out, are of other classes."""
    labels = class_numbers(y).numpy()
    parts = np.split(labels, [int(len(labels) * (1 - validation_split))])
    fitted, held_out = (set(part.tolist()) for part in parts)
    if other := sorted(fitted ^ held_out):
        warnings.warn(
            "validation_split holds out the last images; these classes are in one of "
            f"the parts only: {other}; shuffle the data first",
            stacklevel=3,
        )


def _batch(data: Any) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]:
    """Images, class numbers (batch,), and weights (batch,) of examples if any."""
    x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
    if weights is not None:
        weights = tf.reshape(weights, [-1])
    return tf.convert_to_tensor(x), class_numbers(y), weights


def _weighted(losses: tf.Tensor, weights: tf.Tensor | None) -> tf.Tensor:
    return losses if weights is None else losses * tf.cast(weights, losses.dtype)


class _DropPathSchedule(keras.callbacks.Callback):
    """Raises the drop path rate linearly over the epochs, as the official code does."""

    def on_epoch_begin(self, epoch, logs=None):
        network = self.model.network
        if isinstance(network, CellNetwork):
            network.schedule_drop_path(epoch / self.params["epochs"])
