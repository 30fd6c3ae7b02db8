"""The Square Attack: random search by squares, which needs no gradient.

Source: Andriushchenko et al., arXiv 1912.00049.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from advrush_tf.attacks import losses
from advrush_tf.attacks.geometry import Norm, fused, per_image, project
from advrush_tf.attacks.iterative import Batch, IterativeAttack, StepResult
from advrush_tf.nn.constants import constant

_TINY = 1e-12
# A candidate with more candidates than this before it has half the share of pixels.
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
# Candidates at a time, if not one.
_FEWEST_AHEAD = 4
# The L2 start is a grid of so many tiles each way.
_TILES = 5


@dataclasses.dataclass(frozen=True)
class Square(IterativeAttack):
    """Random search that raises the margin by changes in random squares.

    Attributes:
        queries: candidates of a run, the start included, each looked at once by the
            model; those that are tried in vain beside them do not count.
        restarts: runs from random starts.
        initial_share: the first square's share of the pixels, in (0, 1]; the paper's p.

    Raises:
        ValueError: a number is out of range.

    Source: arXiv 1912.00049, algorithms 1 to 3; as in AutoAttack (Croce & Hein,
    arXiv 2003.01690) the schedule of the share is not fitted to `queries`.
    """

    queries: int = 5000
    restarts: int = 1
    initial_share: float = 0.8

    block = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("queries", "restarts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, not {getattr(self, name)}")
        if not 0 < self.initial_share <= 1:
            raise ValueError(f"initial_share {self.initial_share} is not in (0, 1]")

    def runs(self, num_classes):
        del num_classes
        return self.restarts

    @property
    def steps(self):
        return self.queries

    def draws(self, image_shape):
        # One sign a channel. Linf: a place; L2: two places and a direction.
        return image_shape[-1] + (2 if self.norm is Norm.LINF else 5)

    def sides(self, height: int, width: int) -> np.ndarray:
        """The side of the square in the candidate that each step makes, (queries,).

        Never more than fits; of the L2 ball odd, and at least 3 where that fits.
        """
        before = np.arange(self.queries)[:, None]
        share = self.initial_share / 2.0 ** (before > _HALVINGS).sum(1)
        sides = np.rint(np.sqrt(share * height * width)).astype(int)
        if self.norm is Norm.LINF:
            return np.clip(sides, 1, min(height, width))
        odd = np.maximum(sides, 3) | 1
        return np.minimum(odd, (min(height, width) - 1) | 1)

    def start(self, batch):
        first = _stripes if self.norm is Norm.LINF else _tiles
        candidate = batch.x + first(batch, self.epsilon)
        return {
            "candidate": project(self.norm, candidate, batch.x, self.epsilon),
            "best": batch.x,
            "margin": tf.fill(tf.shape(batch.y), batch.x.dtype.min),
        }

    def strongest(self, state):
        return state["best"]

    def ahead(self, slots, batch_size):
        # Most candidates change nothing: where few images are left, the batch is filled
        # with each one's next candidates, of which the first that counts is taken. A
        # batch takes longer than a quarter of it, so that fewer would not pay.
        ahead = min(batch_size // slots, self.block)
        return ahead if ahead >= _FEWEST_AHEAD else 1

    def step(self, logits_fn, batch, index, draws, state):
        ahead = draws.shape[1]
        tried = fused(self._candidates, batch, index, draws, state)
        logits, labels = logits_fn(tried), tf.repeat(batch.y, ahead)
        seen = losses.margin(logits, labels), losses.is_wrong(logits, labels)
        return fused(self._update, batch, index, draws, state, tried, seen)

    def _candidates(self, batch, index, draws, state):
        """Each slot's candidates if none of them is taken, (batch * ahead, ...)."""
        ahead = draws.shape[1]
        if ahead == 1:
            return state["candidate"]
        indices = index[:, None] + tf.range(ahead - 1)
        x, best = (tf.repeat(z, ahead - 1, 0) for z in (batch.x, state["best"]))
        others = self._changed(
            x,
            best,
            tf.reshape(indices, [-1]),
            tf.reshape(draws[:, :-1], [-1, draws.shape[2]]),
        )
        shape = batch.x.shape
        others = tf.reshape(others, [shape[0], ahead - 1, *shape[1:]])
        tried = tf.concat([state["candidate"][:, None], others], 1)
        return tf.reshape(tried, [-1, *shape[1:]])

    def _changed(self, x, best, index, draws):
        """The candidates after these steps."""
        sides = constant(tuple(self.sides(*x.shape[1:3]).tolist()))
        side = tf.gather(sides, tf.minimum(index, self.queries - 1))
        change = _stamp if self.norm is Norm.LINF else _move_mass
        changed = change(x, best, self.epsilon, side, draws)
        return project(self.norm, changed, x, self.epsilon)

    def _update(self, batch, index, draws, state, tried, seen):
        """The outcome of the steps up to the first candidate that counts, if any."""
        slots, ahead = draws.shape[:2]
        margin, wrong = (tf.reshape(z, [slots, ahead]) for z in seen)
        left = self.queries - index
        better = margin > state["margin"][:, None]
        counts = (better | wrong) & (tf.range(ahead) < left[:, None])
        first = tf.argmax(counts, 1, tf.int32)
        last = tf.where(tf.reduce_any(counts, 1), first, tf.minimum(left, ahead) - 1)

        def taken(values):
            return tf.gather(values, last, batch_dims=1)

        candidate = taken(tf.reshape(tried, [slots, ahead, *batch.x.shape[1:]]))
        better = taken(better)
        best = tf.where(per_image(better), candidate, state["best"])
        following = self._changed(batch.x, best, index + last, taken(draws))
        state = {
            "candidate": following,
            "best": best,
            "margin": tf.where(better, taken(margin), state["margin"]),
        }
        return StepResult(state, candidate, taken(wrong), last + 1)


def _stripes(batch: Batch, epsilon: float) -> tf.Tensor:
    """The Linf start: vertical stripes of +-epsilon, one sign a column and channel."""
    _, width, channels = batch.x.shape[1:]
    return epsilon * _signs(batch.uniform((1, width, channels)))


def _tiles(batch: Batch, epsilon: float) -> tf.Tensor:
    """The L2 start: a grid of patterns, each of random direction and signs."""
    height, width, channels = batch.x.shape[1:]
    side = max(min(height, width) // _TILES, 1)
    # From the corner of the grid, which is in the middle of the image.
    rows = tf.range(height)[:, None] - (height - _TILES * side) // 2
    columns = tf.range(width) - (width - _TILES * side) // 2
    row, column = rows // side, columns // side
    inside = (row >= 0) & (row < _TILES) & (column >= 0) & (column < _TILES)
    draws = batch.uniform((_TILES**2, channels + 1))
    draws = tf.gather(draws, tf.where(inside, row * _TILES + column, 0), axis=1)
    upright = _eta(rows % side, columns % side, side, side)[..., None]
    turned = _eta(columns % side, rows % side, side, side)[..., None]
    pattern = tf.where(draws[..., :1] < 0.5, turned, upright) * _signs(draws[..., 1:])
    pattern = tf.where(inside[..., None], pattern, 0.0)
    return epsilon * pattern / tf.sqrt(tf.reduce_sum(pattern**2, [1, 2, 3], True))


def _stamp(x, best, epsilon, side, draws) -> tf.Tensor:
    """Algorithm 2: a square of x +- epsilon, one sign a channel.

    The paper adds +-2 epsilon to the best image, which the ball cuts to the same.
    """
    window = _window(draws[:, :2], side, x.shape)
    signs = _signs(draws[:, None, None, 2:])
    return tf.where(window.inside, x + epsilon * signs, best)


def _move_mass(x, best, epsilon, side, draws) -> tf.Tensor:
    """Algorithm 3: empties one square and adds a pattern, with its mass, in another."""
    delta = best - x
    target = _window(draws[:, :2], side, x.shape)
    source = _window(draws[:, 2:4], side, x.shape)
    signs = _signs(draws[:, None, None, 5:])
    pattern = _unit(target.pattern(per_image(draws[:, 4] < 0.5)))
    new = signs * pattern + _unit(tf.where(target.inside, delta, 0.0))
    moved = tf.where(target.inside | source.inside, delta, 0.0)
    unused = epsilon**2 - tf.reduce_sum(delta**2, [1, 2, 3], True)
    mass = _mass(moved) + tf.maximum(unused, 0.0) / x.shape[-1]
    rest = tf.where(source.inside, 0.0, delta)
    return x + tf.where(target.inside, tf.sqrt(mass) * _unit(new), rest)


def _signs(draws: tf.Tensor) -> tf.Tensor:
    return tf.where(draws < 0.5, -1.0, 1.0)


def _mass(delta: tf.Tensor) -> tf.Tensor:
    """The squared L2 norm of each channel, (batch, 1, 1, channels)."""
    return tf.reduce_sum(delta**2, [1, 2], True)


def _unit(delta: tf.Tensor) -> tf.Tensor:
    return delta / tf.maximum(tf.sqrt(_mass(delta)), _TINY)


class _Window(NamedTuple):
    """A square in each slot's image.

    Attributes:
        side: (batch, 1, 1, 1), int32.
        rows: (batch, height, 1, 1), int32, counted from the square's first.
        columns: (batch, 1, width, 1), int32, likewise.
        inside: (batch, height, width, 1), bool.
    """

    side: tf.Tensor
    rows: tf.Tensor
    columns: tf.Tensor
    inside: tf.Tensor

    def pattern(self, turned: tf.Tensor) -> tf.Tensor:
        """Equation 2 or its transpose in the square, (batch, height, width, 1)."""
        most = max(self.inside.shape[1:3])
        upright = _eta(self.rows, self.columns, self.side, most)
        transposed = _eta(self.columns, self.rows, self.side, most)
        return tf.where(self.inside, tf.where(turned, transposed, upright), 0.0)


def _window(places: tf.Tensor, side: tf.Tensor, shape: tf.TensorShape) -> _Window:
    """The square of that side, (batch,), at a random place, (batch, 2) in [0, 1)."""

    def offsets(place, size):
        free = tf.cast(size + 1 - side, place.dtype)
        return tf.range(size) - tf.cast(place * free, tf.int32)[:, None]

    rows = offsets(places[:, 0], shape[1])[:, :, None, None]
    columns = offsets(places[:, 1], shape[2])[:, None, :, None]
    side = per_image(side)
    inside = (rows >= 0) & (rows < side) & (columns >= 0) & (columns < side)
    return _Window(side, rows, columns, inside)


def _eta(rows, columns, side, most: int) -> tf.Tensor:
    """Equation 2 of arXiv 1912.00049, not scaled: a bump, below it a dent.

    The authors' code first scales both to the same length, against the paper; on the
    digits it breaks the same share of images, to 0.3 points, as this does.

    Args:
        rows, columns: int32, counted from the square's first; any beyond it as well.
        side: int32, of the square, which with the others broadcasts.
        most: no side is longer.
    """
    half = side // 2
    upper = rows < half
    centre = tf.where(upper, half // 2, half + (side - half) // 2)
    distance = tf.maximum(tf.abs(rows - centre), tf.abs(columns - half))
    # Equation 1 sums the inverse squares of distance + 1 to half + 1.
    table = np.cumsum([0.0, *(1 / np.arange(1, most // 2 + 2) ** 2)])
    sums = constant(tuple(table.tolist()), tf.float32)
    bump = tf.gather(sums, half + 1) - tf.gather(sums, tf.minimum(distance, half))
    return tf.where(upper, bump, -bump)
