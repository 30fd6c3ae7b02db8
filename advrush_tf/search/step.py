"""The parts of a search's alternating step, as each replica computes them.

One step of algorithm 1 takes a batch of each half of the training data:

    1. alphas <- alphas - Adam(d/dalphas [L(batch_a) + gamma * lambda * mean(r)])
    2. weights <- weights - SGD(d/dweights L(batch_w))

L is the mean cross-entropy in training mode, r the penalty of `penalty`, which joins
after the warm-up epochs. The second line uses the alphas of the first: first-order
DARTS, in which no gradient passes through the update of the weights.

Source: Mok et al., AdvRush, ICCV 2021, algorithm 1; Liu et al., DARTS, arXiv
1806.09055, section 2.3.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from advrush_tf import replication
from advrush_tf.inputs import class_numbers
from advrush_tf.search.penalty import gradient_changes

# Pixels times channels from which pieces cost no time: the official recipe's. With
# 16x16 pixels and 4 channels they took 1.5 times as long.
_LARGE = 32 * 32 * 16


class SearchSteps:
    """Gradients and updates of a compiled search model.

    Each takes a replica's piece of a batch, images (batch, height, width, channels) in
    [0, 1] and labels of any form, and returns the numbers of the whole
    batch; gradients are a list in the order of the alphas or of the weights.

    Args:
        model: the `AdvRushSearchModel`, with both optimizers.
        penalty: the settings of the penalty, named as in the model's `compile`.
    """

    def __init__(self, model: keras.Model, penalty: Mapping[str, Any]):
        self._model = model
        self._penalty = penalty
        self._all_gradients = model.as_graph(self._gradients_of_a_batch)

    def alpha_gradients(self, x, y):
        """Cross-entropy and accuracy in training mode, and the alphas' gradients."""
        contributions = self._loss_gradients(x, y, self._model.alphas)
        self._agree_on_statistics()
        return replication.all_reduce_sum(contributions)

    def penalty_gradients(self, x, y):
        """The penalty lambda * mean(r), and gamma times the alphas' gradients of it.

        Raises:
            ValueError: `penalty_batch` does not divide the replica's piece.
        """
        model = self._model
        dtype = model.variable_dtype
        dtypes = dtype, [dtype for _ in model.alphas]
        size = self._penalty["penalty_batch"] or usual_piece(
            x.shape[0], x.shape[1] * x.shape[2] * model.init_channels
        )
        means = mean_over_pieces(self._piece_of_penalty, (x, y), size, dtypes)
        # Not in the pieces: there is no sum over replicas in a loop.
        share = replication.share_of_batch(x, dtype)
        penalty, gradients = replication.all_reduce_sum(
            tf.nest.map_structure(lambda mean: share * mean, means)
        )
        return penalty, [self._penalty["gamma"] * g for g in gradients]

    def _piece_of_penalty(self, x, y):
        model = self._model

        def loss():
            values = gradient_changes(
                lambda inputs: model.logits_of(inputs, training=False),
                model.normalised(x),
                class_numbers(y),
                self._penalty["h"],
                self._penalty["squared"],
            )
            return [self._penalty["lambda_"] * tf.reduce_mean(values)]

        return self._gradients(loss, model.alphas)

    def update_alphas(self, gradients):
        """One step of the alphas' optimizer with the whole batch's gradients."""
        # Optimizers add up what the replicas give them.
        replicas = replication.num_replicas()
        contributions = [gradient / replicas for gradient in gradients]
        self._model.alpha_optimizer.apply(contributions, self._model.alphas)

    def update_weights(self, x, y):
        """One step of the weights' optimizer; cross-entropy and accuracy before it."""
        weights = self._model.network_weights
        loss, accuracy, gradients = self._loss_gradients(x, y, weights)
        self._model.optimizer.apply(gradients, weights)
        self._agree_on_statistics()
        return replication.all_reduce_sum((loss, accuracy))

    def _loss_gradients(self, x, y, variables):
        """This replica's contributions to the loss and accuracy, and the gradients."""
        # Replicas meet within a batch's normalisation, and in no inner function.
        if self._model.run_eagerly or replication.num_replicas() > 1:
            return self._gradients(lambda: self._loss(x, y), variables)
        # Traced once for both steps: each runs what it takes of it, and no more.
        loss, accuracy, gradients = self._all_gradients(x, y)
        return loss, accuracy, [gradients[variable.path] for variable in variables]

    def _gradients_of_a_batch(self, x, y):
        variables = [*self._model.alphas, *self._model.network_weights]
        loss, accuracy, gradients = self._gradients(lambda: self._loss(x, y), variables)
        paths = [variable.path for variable in variables]
        return loss, accuracy, dict(zip(paths, gradients, strict=True))

    def _loss(self, x, y):
        """This replica's contributions to the whole batch's mean loss and accuracy."""
        losses, hits = example_losses(self._model(x, training=True), y)
        return replication.mean_contribution(losses), replication.mean_contribution(
            hits
        )

    def _gradients(
        self, loss_fn: Callable[[], Sequence], variables: Sequence[keras.Variable]
    ):
        """The values of `loss_fn`, of which the first is a loss, and its gradients."""
        values = [variable.value for variable in variables]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            loss, *others = loss_fn()
        gradients = tape.gradient(
            loss, values, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        return loss, *others, gradients

    def _agree_on_statistics(self) -> None:
        """Averages per-replica running statistics."""
        supernet = self._model.supernet
        if not supernet.synchronized:
            replication.average(supernet.non_trainable_variables)


def example_losses(logits: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Cross-entropy, and 1 for a hit or 0, of each example, both (batch,).

    Args:
        logits: (batch, classes).
        y: labels that `check_batch` has seen.
    """
    labels = class_numbers(y)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    hits = tf.equal(tf.argmax(logits, -1, tf.int32), labels)
    # The largest of NaN is class 0.
    hits &= tf.reduce_all(tf.math.is_finite(logits), -1)
    return losses, tf.cast(hits, losses.dtype)


def share_of_norm(part: Sequence[tf.Tensor], rest: Sequence[tf.Tensor]) -> tf.Tensor:
    """Norm of `part` over the sum of both norms; 0 where both vanish."""
    first, second = tf.linalg.global_norm(part), tf.linalg.global_norm(rest)
    return tf.math.divide_no_nan(first, first + second)


def usual_piece(examples: int | None, elements: int) -> int | None:
    """Examples in a piece of `mean_over_pieces` where nobody has chosen.

    On a processor pieces take as long as the whole and less memory if images and
    network are as large as the official recipe's; smaller ones, and a GPU, are quicker
    with the whole.

    Args:
        examples: in the batch; None where it is not known.
        elements: pixels of an image times channels of the first cell.

    Returns:
        The largest number from 8 to 16 that divides the batch, or all of it.
    """
    small = elements < _LARGE
    if examples is None or small or tf.config.list_physical_devices("GPU"):
        return examples
    return next((n for n in range(16, 7, -1) if examples % n == 0), examples)


def mean_over_pieces(
    function: Callable[..., Any],
    batch: Sequence[tf.Tensor],
    size: int | None,
    dtypes: Any,
) -> Any:
    """The mean of a function over the equal pieces of a batch, one after the other.

    For a function that is a mean over examples that do not interact, this is the value
    for the whole batch with the memory of one piece.

    Args:
        function: maps pieces of the tensors in `batch` to nested tensors; traced once.
        batch: tensors of equally many examples.
        size: examples in a piece; None, or a size that is no smaller than the batch,
            takes the whole batch at once.
        dtypes: of the tensors that the function returns, nested in the same way.

    Returns:
        The means, nested as `dtypes`.

    Raises:
        ValueError: `size` does not divide the number of examples.
    """
    tensors = [tf.convert_to_tensor(x) for x in batch]
    examples = tensors[0].shape[0]
    if size is None or size >= examples:
        return function(*batch)
    if examples % size:
        raise ValueError(f"pieces of {size} do not divide a batch of {examples}")
    values = tf.map_fn(
        lambda piece: function(*piece),
        [tf.reshape(x, (examples // size, size, *x.shape[1:])) for x in tensors],
        parallel_iterations=1,
        fn_output_signature=dtypes,
    )
    return tf.nest.map_structure(lambda value: tf.reduce_mean(value, 0), values)
