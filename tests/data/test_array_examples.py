from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import tensorflow as tf

from advrush_tf.data.array_examples import (
    ArrayExamples,
    channel_moments,
    require_memory,
    stratified_split,
)
from advrush_tf.data.augmentation import Augmentation
from advrush_tf.errors import UserError


def _examples(count):
    """Images whose first pixel is their number."""
    images = np.random.default_rng(1).integers(0, 256, (count, 8, 8, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(count)
    return ArrayExamples(images, np.arange(count) % 5)


@pytest.mark.parametrize("portion", [0.5, 0.3, 0.29, 0.9])
def test_split_is_disjoint_covering_and_even(portion):
    labels = np.random.default_rng(0).choice(5, 803, p=[0.4, 0.3, 0.2, 0.07, 0.03])
    first, second = stratified_split(labels, portion, seed=0)
    both = np.concatenate([first, second])
    assert sorted(both.tolist()) == list(range(803))
    assert len(first) == round(portion * 803)
    counts = np.bincount(labels[first], minlength=5)
    assert np.abs(counts - portion * np.bincount(labels)).max() < 1


def test_largest_remainders_get_the_rest():
    # Exact shares 1.5, 2.4 and 1.8, 6 in all: 1, 2, 1 whole, the rest to .8 and .5.
    labels = np.repeat([0, 1, 2], [5, 8, 6])
    first, _ = stratified_split(labels, 0.3, seed=0)
    assert np.bincount(labels[first]).tolist() == [2, 2, 2]


def test_split_follows_the_seed():
    labels = np.arange(200) % 10
    one, again, other = (stratified_split(labels, 0.5, seed) for seed in (7, 7, 8))
    np.testing.assert_array_equal(one, again)
    assert set(one[0]) != set(other[0])


@pytest.mark.parametrize("portion", [0, 1, -0.5, 1.5, float("nan")])
def test_portion_out_of_range_is_refused(portion):
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        stratified_split(np.zeros(10, int), portion, seed=0)


@pytest.mark.parametrize("portion", [0.01, 0.99])
def test_empty_half_is_refused(portion):
    with pytest.raises(ValueError, match="leaves a part empty"):
        stratified_split(np.zeros(10, int), portion, seed=0)


def test_parts_of_a_split_are_those_of_the_stratified_split():
    examples = _examples(50)
    rows = stratified_split(examples.labels, 0.3, seed=2)
    for part, members in zip(examples.split(0.3, seed=2), rows, strict=True):
        images, labels = part.arrays()
        np.testing.assert_array_equal(images[:, 0, 0, 0], members)
        np.testing.assert_array_equal(labels, members % 5)


def test_samples_are_drawn_evenly_whatever_the_order():
    examples = _examples(50)
    assert examples.drawn(60, 0) is examples
    ordered = ArrayExamples(examples.images, np.sort(examples.labels))
    some = ordered.drawn(10, 3)
    np.testing.assert_array_equal(some.labels, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4])
    again, other = (ordered.drawn(10, seed).images for seed in (3, 4))
    np.testing.assert_array_equal(some.images, again)
    assert (some.images != other).any()
    images, _ = some.unit_arrays()
    np.testing.assert_array_equal(images, some.images / np.float32(255))
    order = np.random.default_rng(4).permutation(50)[:7]
    np.testing.assert_array_equal(examples.sample(7, 4)[:, 0, 0, 0], order)


@pytest.mark.parametrize("count", [2, 3, 6])
def test_all_shards_are_the_training_batch(count):
    examples = _examples(50)
    arguments = 12, 7, Augmentation(crop_padding=2, flip=True, cutout=3), 2, (0.1,) * 3
    whole, _ = examples.training_batches(*arguments)
    parts = [
        examples.training_batches(*arguments, shard=(index, count))[0]
        for index in range(count)
    ]
    assert parts[0].element_spec[0].shape == (12 // count, 8, 8, 3)
    streams = [part.take(9).as_numpy_iterator() for part in parts]
    for batch, *pieces in zip(whole.take(9).as_numpy_iterator(), *streams, strict=True):
        together = tf.nest.map_structure(lambda *p: np.concatenate(p), *pieces)
        tf.nest.map_structure(np.testing.assert_array_equal, batch, together)


def test_shards_of_evaluation_batches_have_rows_rounded_up():
    examples = _examples(21)
    parts = [
        list(examples.evaluation_batches(8, (index, 4)).as_numpy_iterator())
        for index in range(4)
    ]
    assert [[len(y) for _, y in part] for part in parts] == [
        [2, 2, 2],
        [2, 2, 2],
        [2, 2, 1],
        [2, 2, 0],
    ]
    pieces = [x for batch in zip(*parts, strict=True) for x, _ in batch]
    np.testing.assert_array_equal(
        np.concatenate(pieces), examples.images * np.float32(1 / 255)
    )


def test_moments_of_several_batches_match_numpy():
    images = np.random.default_rng(0).integers(0, 256, (50, 5, 4, 3), np.uint8)
    images[..., 1] //= 3
    mean, std = channel_moments([images[:20], images[20:]])
    unit = images.astype(np.float64) / 255
    np.testing.assert_allclose(mean, unit.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, unit.std((0, 1, 2)), rtol=1e-12)


def test_the_deviation_of_a_constant_channel_is_one():
    assert channel_moments([np.full((3, 2, 2, 1), 51, np.uint8)]) == (
        pytest.approx((0.2,)),
        (1.0,),
    )


def test_three_quarters_of_the_free_memory_may_be_needed(monkeypatch):
    free = SimpleNamespace(available=4_000_000_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    require_memory("A shoe", 3_000_000_000)
    with pytest.raises(UserError, match=r"A shoe needs 3.0 GB; the limit is 3.0 GB"):
        require_memory("A shoe", 3_000_000_001)
