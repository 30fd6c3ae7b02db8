"""Curvature of each image's loss as a function of the image.

The Hessian of an image's cross-entropy is never formed: its products with vectors are
exact derivatives, and Lanczos' method finds its largest eigenvalues and its spectrum.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from advrush_tf.attacks.base import LogitsFn, as_logits_fn
from advrush_tf.attacks.geometry import as_number
from advrush_tf.errors import NonFiniteLossError
from advrush_tf.inputs import check_logits, image_array, label_array
from advrush_tf.landscape.hessian import hessian_products, require_connected
from advrush_tf.landscape.lanczos import Ritz, lanczos, ritz, trace
from advrush_tf.losses import exact_cross_entropy
from advrush_tf.nn.second_derivatives import refuse_wrong_derivatives
from advrush_tf.search.penalty import gradient_changes, input_gradient

# AdvRush's h, 1.5 in CIFAR-10 images normalised by standard deviations of 0.247.
PROBE_LENGTH = 0.37


@dataclasses.dataclass(frozen=True)
class Curvature:
    """The curvature of images' cross-entropies, in nats, as functions of the images.

    Attributes:
        gradient_norms: (images,), L2 norms of the input gradients.
        penalties: (images,), see `advrush_tf.search.penalty`.
        eigenvalues: (images, top), the Hessian's largest in size, those first.
        eigenvalue_bounds: (images, top), their largest distance from an eigenvalue, up
            to the rounding of the products.
        traces: (images,), unbiased estimates of the Hessian's trace: exact for the
            subspace of the Lanczos runs, estimated for the rest (Hutch++).
        trace_errors: (images,), the estimates' standard errors, rather too large than
            too small. NaN, as the traces are, where nothing probed the rest.
        ritz_values: (images, probes * steps), with
        ritz_weights: (images, probes * steps), of sum 1, the quadrature of the
            Hessian's spectrum: see `advrush_tf.landscape.spectrum`.
    """

    gradient_norms: np.ndarray
    penalties: np.ndarray
    eigenvalues: np.ndarray
    eigenvalue_bounds: np.ndarray
    traces: np.ndarray
    trace_errors: np.ndarray
    ritz_values: np.ndarray
    ritz_weights: np.ndarray

    @property
    def mean_trace_error(self) -> float:
        """Standard error, by the estimates alone, of the images' mean trace."""
        return float(np.linalg.norm(self.trace_errors) / len(self.trace_errors))

    @property
    def quantities(self) -> dict[str, np.ndarray]:
        """The reported quantities of each image, (images,) by name."""
        return {
            "top_eigenvalue": self.eigenvalues[:, 0],
            "trace": self.traces,
            "penalty": self.penalties,
            "gradient_norm": self.gradient_norms,
        }


class CurvatureMeter:
    """Measures the curvature of a classifier, compiled once for any number of images.

    Images are taken in batches of one size. The memory is about that of a training step
    and of `lanczos_steps` batches of images in float64. Values depend on the batch size
    by rounding only.

    Args:
        model: a Keras classifier, called in inference mode, or a function of TensorFlow
            operations: images in [0, 1] to logits.
        batch_size: images at a time.
        probe_length: length of the penalty's probe, in [0, 1] units.
        top: number of eigenvalues kept of each Hessian.
        lanczos_steps: of each Lanczos run, one product each; at most the number of an
            image's values. In a piecewise linear network with K classes, no Hessian's
            rank is above K - 1, and K steps find all its eigenvalues.
        probes: Lanczos runs per image, from random signs (Rademacher vectors).
        seed: of all random numbers, at least 0; those of an image depend on its index.
        trace_probes: products of each Lanczos run for what it leaves out of the trace;
            four halve the error of one, 0 where no trace is wanted.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        model: Any,
        batch_size: int = 32,
        probe_length: float = PROBE_LENGTH,
        top: int = 5,
        lanczos_steps: int = 20,
        probes: int = 1,
        seed: int = 0,
        trace_probes: int = 4,
    ):
        probe_length = as_number(probe_length)
        positive = {
            "batch_size": batch_size,
            "probe_length": probe_length,
            "top": top,
            "probes": probes,
        }
        for name, value in positive.items():
            if not 0 < value < np.inf:
                raise ValueError(f"{name} must be more than 0 and finite, not {value}")
        if lanczos_steps < top:
            raise ValueError(
                f"lanczos_steps must be {top} or more, to find top={top} eigenvalues, "
                f"not {lanczos_steps}"
            )
        for name, value in {"seed": seed, "trace_probes": trace_probes}.items():
            if value < 0:
                raise ValueError(f"{name} must be 0 or more, not {value}")
        self._batch_size, self._top, self._steps = batch_size, top, lanczos_steps
        self._probes, self._seed, self._trace_probes = probes, seed, trace_probes
        self._slopes, self._product = _compiled(as_logits_fn(model), probe_length)

    def measure(
        self,
        x: np.ndarray,
        y: np.ndarray,
        progress: Callable[[int], Any] = lambda images: None,
    ) -> Curvature:
        """Measures the curvature at any number of images.

        Args:
            x: (images, height, width, channels), floats in [0, 1]; float64 is kept.
            y: labels, see `advrush_tf.inputs.as_labels`.
            progress: called with the number of images after each batch of them.

        Raises:
            ValueError: the images or labels are not as above, an image has fewer than
                `top` values, or the model gives probabilities or has a layer that
                TensorFlow cannot differentiate twice.
            NonFiniteLossError: an image has a derivative that is not finite.
        """
        x = _checked(x, self._top)
        y = label_array(y, len(x), self._compile(x))
        parts = []
        for rows in _batches(len(x), self._batch_size):
            parts.append(self._measure_batch(x[rows], y[rows], rows))
            progress(len(rows))
        names = [field.name for field in dataclasses.fields(Curvature)]
        return Curvature(**{n: np.concatenate([p[n] for p in parts]) for n in names})

    def _compile(self, x: np.ndarray) -> int:
        """Traces what measures such images; returns the number of classes."""
        images = tf.TensorSpec((self._batch_size, *x.shape[1:]), x.dtype)
        labels = tf.TensorSpec((self._batch_size,), tf.int32)
        # Where functions run eagerly, too, as the graph shows what is wrong.
        self._product.get_concrete_function(images, labels, images)
        return self._slopes.get_concrete_function(images, labels).output_shapes[2][1]

    def _measure_batch(
        self, x: np.ndarray, y: np.ndarray, rows: range
    ) -> dict[str, np.ndarray]:
        batch = [tf.constant(_filled(part, self._batch_size)) for part in (x, y)]
        *found, logits = self._slopes(*batch)
        check_logits(logits)
        slopes = [part.numpy()[: len(rows)] for part in found]
        for part in slopes:
            _check_finite(part, rows)

        def product(vectors: np.ndarray) -> np.ndarray:
            v = _filled(vectors.reshape(x.shape).astype(x.dtype), self._batch_size)
            products = self._product(*batch, tf.constant(v)).numpy()[: len(rows)]
            return _check_finite(products.reshape(vectors.shape), rows)

        runs = [self._run(product, x[0].size, rows, p) for p in range(self._probes)]
        return {
            "gradient_norms": slopes[0],
            "penalties": slopes[1],
            "traces": np.mean([traces for traces, _, _ in runs], 0),
            "trace_errors": np.linalg.norm([e for _, e, _ in runs], axis=0) / len(runs),
            **_spectra([run for _, _, run in runs], self._top),
        }

    def _run(
        self, product: Callable, size: int, rows: range, probe: int
    ) -> tuple[np.ndarray, np.ndarray, Ritz]:
        """One Lanczos run an image: traces, their errors, and the Ritz values."""
        seeds = [(self._seed, row, probe) for row in rows]
        signs = [np.random.default_rng(s).choice([-1.0, 1.0], size) for s in seeds]
        tridiagonal = lanczos(product, np.stack(signs), self._steps, seeds)
        traces, errors = trace(product, tridiagonal, self._trace_probes, seeds)
        return traces, errors, ritz(tridiagonal)


def measure_curvature(
    model: Any,
    x: np.ndarray,
    y: np.ndarray,
    progress: Callable[[int], Any] = lambda images: None,
    **settings: Any,
) -> Curvature:
    """Measures the curvature of a classifier at any number of images.

    Args:
        model: see `CurvatureMeter`.
        x, y, progress: see `CurvatureMeter.measure`.
        **settings: of `CurvatureMeter`.

    Raises:
        ValueError, NonFiniteLossError: as there.
    """
    return CurvatureMeter(model, **settings).measure(x, y, progress)


class CurvatureMetric(keras.callbacks.Callback):
    """Adds the mean curvature at given images to the logs of an epoch.

    The logs gain `curvature_top_eigenvalue` (of the largest size, with its
    sign), `curvature_trace`, `curvature_penalty` and `curvature_gradient_norm`: means
    over the images, see `Curvature`. Put it before the callbacks that log them, such
    as TensorBoard and CSVLogger; the history of `fit` always has them.

    Works with any classifier of images in [0, 1] that gives logits, with
    `AdvRushSearchModel` and with `AdvRushFitModel`, whose averaged weights it measures
    if there are any, as `evaluate` does. The model runs in inference mode; weights,
    running statistics and metrics do not change.

    Args:
        x: (images, height, width, channels), floats in [0, 1].
        y: (images,), integer labels.
        probe_length: length of the penalty's probe, in [0, 1] units.
        lanczos_steps: one Hessian-vector product each; see `CurvatureMeter`.
        every_epochs: epochs from one measurement to the next, from the first epoch on.
        batch_size: images at a time.
        seed: of the random numbers, the same in each epoch.

    Raises:
        ValueError: `every_epochs` is out of range; in `fit`, another number is, or the
            images are not as above.
        NonFiniteLossError: in `fit`, a derivative of the loss is not finite.
    """

    def __init__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        probe_length: float = PROBE_LENGTH,
        lanczos_steps: int = 10,
        every_epochs: int = 1,
        batch_size: int = 32,
        seed: int = 0,
    ):
        super().__init__()
        if every_epochs < 1:
            raise ValueError(f"every_epochs must be 1 or more, not {every_epochs}")
        self._x, self._y, self._every_epochs = x, y, every_epochs
        self._settings: dict[str, Any] = {
            "probe_length": probe_length,
            "lanczos_steps": lanczos_steps,
            "top": 1,
            "batch_size": batch_size,
            "seed": seed,
        }

    def on_train_begin(self, logs=None):
        # Compiles at the first measurement: the model may have no weights yet.
        self._meter = CurvatureMeter(self.model, **self._settings)

    def on_epoch_end(self, epoch, logs=None):
        if epoch % self._every_epochs or logs is None:
            return
        averaged = getattr(self.model, "averaged", contextlib.nullcontext)
        with averaged():
            curvature = self._meter.measure(self._x, self._y)
        for name, values in curvature.quantities.items():
            logs[f"curvature_{name}"] = float(np.mean(values))


def _compiled(logits_fn: LogitsFn, h: float) -> tuple[Any, Any]:
    """Gradient norms, penalties and logits of (x, y), Hessian products of (x, y, v)."""

    def logits(images: tf.Tensor) -> tf.Tensor:
        return tf.cast(logits_fn(images), images.dtype)

    @tf.function(autograph=False)
    def slopes(x: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        seen = []

        def losses(labels: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
            seen.append(outputs)
            return exact_cross_entropy(labels, outputs)

        gradient = require_connected(input_gradient(logits, x, y, losses))
        gradient = tf.reshape(gradient, [x.shape[0], -1])
        norms = tf.norm(gradient, axis=1)
        return norms, gradient_changes(logits, x, y, h), seen[0]

    @tf.function(autograph=False)
    def product(x: tf.Tensor, y: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
        with refuse_wrong_derivatives():
            return hessian_products(logits, x, y, v)

    return slopes, product


def _checked(x: Any, top: int) -> np.ndarray:
    x = image_array(x)
    if x[0].size < top:
        raise ValueError(
            f"top must be {x[0].size} or less, as many as an image has values, "
            f"not {top}"
        )
    return x if x.dtype == np.float64 else x.astype(np.float32)


def _batches(count: int, size: int) -> Iterator[range]:
    for first in range(0, count, size):
        yield range(first, min(first + size, count))


def _filled(rows: np.ndarray, size: int) -> np.ndarray:
    """Fills up a batch by repeating its last row."""
    return rows[np.minimum(np.arange(size), len(rows) - 1)]


def _check_finite(values: np.ndarray, rows: range) -> np.ndarray:
    """Returns the values, (images, ...), or raises with the first image not finite."""
    finite = np.isfinite(values).reshape(len(rows), -1).all(1)
    if not finite.all():
        raise NonFiniteLossError(
            f"a derivative of the loss is not finite at image {rows[finite.argmin()]} "
            "(counted from 0): the model's weights or that image's logits have become "
            "NaN or too large"
        )
    return values


def _spectra(runs: list[Ritz], top: int) -> dict[str, np.ndarray]:
    """The runs' common quadratures, and the largest eigenvalues of each image."""
    values, weights, bounds = (np.stack(part, 1) for part in zip(*runs, strict=True))
    images = len(values)
    # No Ritz value is beyond the spectrum: the run that reaches farthest is best. Runs
    # together would give one eigenvalue many times.
    best = np.abs(values).max(2).argmax(1)[:, np.newaxis, np.newaxis]
    values_of_best = np.take_along_axis(values, best, 1)[:, 0]
    bounds_of_best = np.take_along_axis(bounds, best, 1)[:, 0]
    order = np.argsort(-np.abs(values_of_best), 1, "stable")[:, :top]
    return {
        "eigenvalues": np.take_along_axis(values_of_best, order, 1),
        "eigenvalue_bounds": np.take_along_axis(bounds_of_best, order, 1),
        "ritz_values": values.reshape(images, -1),
        "ritz_weights": weights.reshape(images, -1) / len(runs),
    }
