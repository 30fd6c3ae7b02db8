import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.data.array_examples import stratified_split
from advrush_tf.data.augmentation import Augmentation
from advrush_tf.data.pipeline import (
    bilevel_pairs,
    evaluation_batches,
    training_batches,
)

MEAN = (0.25, 0.5, 0.75)


def _numbered(count, classes=4, side=4):
    """Images whose first pixel holds their number, so that they can be told apart."""
    images = np.random.default_rng(1).integers(0, 256, (count, side, side, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(count) // 256
    images[:, 0, 0, 1] = np.arange(count) % 256
    return images, np.arange(count) % classes


def _numbers(x):
    pixels = np.rint(np.asarray(x)[:, 0, 0, :2] * 255).astype(int)
    return pixels @ [256, 1]


def _take(dataset, steps):
    """Numbers of the images of each step: (steps, batch) for weights and alphas."""
    batches = [(_numbers(w), _numbers(a)) for (w, _), (a, _) in dataset.take(steps)]
    weights, alphas = zip(*batches, strict=True)
    return np.stack(weights), np.stack(alphas)


BOTH = pytest.mark.parametrize("make", [bilevel_pairs, training_batches])


def _halves(element):
    """The (x, y) of a batch: two in a search, one in a fit."""
    return element if isinstance(element[0], tuple) else (element,)


@pytest.mark.parametrize("make", [bilevel_pairs, training_batches, evaluation_batches])
def test_no_tuner_holds_up_an_iterator_s_deletion(make):
    made = make(*_numbered(80), batch_size=8)
    dataset = made if make is evaluation_batches else made[0]
    for finished in (dataset, dataset.take(2), dataset.map(lambda *batch: batch)):
        assert finished.options().autotune.enabled is False


@BOTH
def test_batches_have_the_promised_form(make):
    images, labels = _numbered(80)
    dataset, steps = make(images, labels, batch_size=8)
    half = (
        tf.TensorSpec((8, 4, 4, 3), tf.float32),
        tf.TensorSpec((8,), tf.int32),
    )
    searching = make is bilevel_pairs
    assert dataset.element_spec == ((half, half) if searching else half)
    assert steps == (5 if searching else 10)
    assert dataset.cardinality() == tf.data.INFINITE_CARDINALITY
    for x, y in _halves(next(iter(dataset))):
        np.testing.assert_array_equal(x, images[_numbers(x)] * np.float32(1 / 255))
        np.testing.assert_array_equal(y, labels[_numbers(x)])


def test_halves_are_those_of_the_split_and_seen_once_per_epoch():
    images, labels = _numbered(320)
    first, second = stratified_split(labels, 0.5, seed=4)
    dataset, steps = bilevel_pairs(images, labels, batch_size=16, seed=4)
    weights, alphas = _take(dataset, 3 * steps)
    for numbers, half in ((weights, first), (alphas, second)):
        epochs = numbers.reshape(3, -1)
        for epoch in epochs:
            assert sorted(epoch.tolist()) == half.tolist()
        assert len({tuple(epoch) for epoch in epochs}) == 3


def test_halves_are_shuffled_independently():
    images, labels = _numbered(800)
    first, second = stratified_split(labels, 0.5, seed=0)
    dataset, steps = bilevel_pairs(images, labels, batch_size=40)
    weights, alphas = _take(dataset, steps)
    ranks = (
        np.searchsorted(first, weights.ravel()),
        np.searchsorted(second, alphas.ravel()),
    )
    # Of 400 ranks, independent orders share 1 on average, equal orders all.
    assert np.sum(ranks[0] == ranks[1]) < 10


def test_incomplete_batches_are_left_out():
    images, labels = _numbered(100)
    dataset, steps = bilevel_pairs(images, labels, batch_size=16)
    assert steps == 3
    weights, _ = _take(dataset, 2 * steps)
    for epoch in weights.reshape(2, -1):
        assert len(set(epoch)) == 48


@pytest.mark.parametrize("portion", [0.75, 0.25])
def test_alpha_half_of_another_length_wraps_around(portion):
    images, labels = _numbered(320)
    _, second = stratified_split(labels, portion, seed=0)
    dataset, steps = bilevel_pairs(
        images, labels, batch_size=16, train_portion=portion, initial_epoch=0
    )
    assert steps == 320 * portion / 16
    per_pass = len(second) // 16
    _, alphas = _take(dataset, 4 * per_pass)
    passes = alphas.reshape(4, -1)
    for one in passes:
        assert sorted(one.tolist()) == second.tolist()
    assert len({tuple(one) for one in passes}) == 4


@pytest.mark.parametrize(
    ("make", "count", "more"),
    [
        (bilevel_pairs, 200, {"train_portion": 0.5}),
        (bilevel_pairs, 200, {"train_portion": 0.7}),
        (bilevel_pairs, 200, {"train_portion": 0.3}),
        (training_batches, 200, {}),
        (training_batches, 208, {}),
    ],
)
def test_later_start_continues_bit_for_bit(make, count, more):
    images, labels = _numbered(count, side=8)
    settings = {
        "batch_size": 16,
        "seed": 11,
        "augmentation": Augmentation(crop_padding=2, flip=True, cutout=3),
        "mean": MEAN,
        **more,
    }
    whole, steps = make(images, labels, **settings)
    later, _ = make(images, labels, initial_epoch=3, **settings)
    one_thread = tf.data.Options()
    one_thread.threading.private_threadpool_size = 1
    later = later.with_options(one_thread)
    expected = whole.skip(3 * steps).take(2 * steps).as_numpy_iterator()
    got = later.take(2 * steps).as_numpy_iterator()
    for one, other in zip(expected, got, strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, one, other)


@BOTH
def test_seed_decides_split_order_and_augmentation(make):
    images, labels = _numbered(100, side=8)
    augmentation = Augmentation(crop_padding=2)

    def first(seed):
        dataset, _ = make(
            images, labels, batch_size=16, seed=seed, augmentation=augmentation
        )
        return next(dataset.as_numpy_iterator())

    one, again, other = first(1), first(1), first(2)
    tf.nest.map_structure(np.testing.assert_array_equal, one, again)
    x, y = _halves(one)[0]
    other_x, other_y = _halves(other)[0]
    assert (x != other_x).any()
    assert (y != other_y).any()


def test_streams_and_steps_are_augmented_differently():
    images = np.full((64, 16, 16, 1), 255, np.uint8)
    dataset, _ = bilevel_pairs(
        images, np.arange(64) % 2, batch_size=32, augmentation=Augmentation(cutout=8)
    )
    batches = [x for pair in dataset.take(3).as_numpy_iterator() for x, _ in pair]
    assert len({batch.tobytes() for batch in batches}) == 6


def test_pairs_are_augmented_as_drawn_with_the_mean_as_fill():
    images, labels = _numbered(64, side=8)
    dataset, _ = bilevel_pairs(
        images, labels, 16, augmentation=Augmentation(cutout=5), mean=MEAN
    )
    for x, _ in next(dataset.as_numpy_iterator()):
        blotted = (x == np.float32(MEAN)).all(-1)
        # Centred on a corner, a square of 5 keeps 3 x 3 pixels.
        assert np.all((blotted.sum((1, 2)) >= 9) & (blotted.sum((1, 2)) <= 25))
        assert x.min() >= 0
        assert x.max() <= 1


def test_images_are_not_part_of_the_graph():
    images, labels = _numbered(4000, side=16)
    dataset, _ = bilevel_pairs(images, labels)
    graph = tf.function(lambda: iter(dataset).get_next()).get_concrete_function()
    assert len(graph.graph.as_graph_def().SerializeToString()) < images.nbytes / 10


def _order(dataset, steps):
    return np.stack([_numbers(x) for x, _ in dataset.take(steps)])


@pytest.mark.parametrize(("batch_size", "steps"), [(16, 20), (64, 5), (50, 6)])
def test_each_epoch_of_training_has_all_images_in_another_order(batch_size, steps):
    dataset, promised = training_batches(*_numbered(320), batch_size, seed=4)
    assert promised == steps
    epochs = _order(dataset, 3 * steps).reshape(3, -1)
    for epoch in epochs:
        # The last 20 of batches of 50 are left out, and others in each epoch.
        assert len(set(epoch.tolist())) == steps * batch_size
        assert set(epoch.tolist()) <= set(range(320))
    assert len({tuple(epoch) for epoch in epochs}) == 3
    if steps * batch_size < 320:
        assert len({frozenset(epoch.tolist()) for epoch in epochs}) == 3


def test_training_has_streams_of_its_own():
    # The search's halves of 2 * 400 images, against a training on 400: the positions
    # at which all draw the same are one in 400 by chance.
    images, labels = _numbered(800)
    pairs, steps = bilevel_pairs(images, labels, batch_size=40)
    halves = stratified_split(labels, 0.5, seed=0)
    dataset, _ = training_batches(images[:400], labels[:400], batch_size=40)
    own = _order(dataset, steps).ravel()
    for half, drawn in zip(halves, _take(pairs, steps), strict=True):
        assert np.sum(np.searchsorted(half, drawn.ravel()) == own) < 10


def test_training_is_augmented_by_draws_of_its_own():
    images = np.full((64, 16, 16, 1), 255, np.uint8)
    arguments = images, np.arange(64) % 2
    cutout = Augmentation(cutout=8)
    pairs, _ = bilevel_pairs(*arguments, batch_size=32, augmentation=cutout)
    batches, _ = training_batches(*arguments, batch_size=32, augmentation=cutout)
    drawn = [x for pair in pairs.take(2).as_numpy_iterator() for x, _ in pair]
    drawn += [x for x, _ in batches.take(4).as_numpy_iterator()]
    assert len({batch.tobytes() for batch in drawn}) == 8


def test_evaluation_gives_every_image_in_order():
    images, labels = _numbered(21)
    dataset = evaluation_batches(images, labels, batch_size=8)
    assert dataset.cardinality() == 3
    batches = list(dataset.as_numpy_iterator())
    assert [len(y) for _, y in batches] == [8, 8, 5]
    x, y = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    np.testing.assert_array_equal(x, images * np.float32(1 / 255))
    np.testing.assert_array_equal(y, labels)
    assert (x.dtype, y.dtype) == (np.float32, np.int32)


def _as_dataset(images, labels):
    return (tf.data.Dataset.from_tensor_slices((images, labels)),)


@BOTH
@pytest.mark.parametrize(
    "change",
    [
        lambda images, labels: (images, labels[:, np.newaxis]),
        lambda images, labels: (images.tolist(), labels.tolist()),
        lambda images, labels: (images / 255, np.eye(4)[labels]),
        lambda images, labels: (images.astype("float32") / 255, labels),
        lambda images, labels: (images.astype(np.int64), labels.astype(np.uint8)),
        _as_dataset,
        lambda images, labels: (_as_dataset(images / 255, labels)[0].batch(30),),
    ],
    ids=["keras", "lists", "float64", "float32", "int64", "dataset", "batches"],
)
def test_images_and_labels_may_have_many_forms(make, change):
    images, labels = _numbered(64)
    expected, steps = make(images, labels, batch_size=16)
    got, same = make(*change(images, labels), batch_size=16)
    assert same == steps
    for one, other in zip(expected.take(2), got.take(2), strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, one, other)


def test_grey_images_need_no_axis_of_channels():
    images, labels = _numbered(64)
    dataset, _ = bilevel_pairs(images[..., 0], labels, batch_size=16)
    assert dataset.element_spec[0][0].shape == (16, 4, 4, 1)


@pytest.mark.parametrize(
    "change",
    [
        lambda dataset: dataset.repeat(),
        lambda dataset: dataset.take(0),
        lambda dataset: dataset.map(lambda x, y: x),
    ],
    ids=["endless", "empty", "no labels"],
)
def test_other_datasets_are_refused(change):
    dataset = change(_as_dataset(*_numbered(8))[0])
    with pytest.raises(ValueError, match="must be finite, with elements"):
        bilevel_pairs(dataset, batch_size=2)


@BOTH
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"initial_epoch": -1}, "initial_epoch at least 0, not 16 and -1"),
        ({"batch_size": 65}, "A batch of 65 needs .* (there are 64|have 32 and 32)"),
        ({"images": np.full((64, 4, 4, 3), 255.0)}, r"in \[0, 1\]; these .* 255\]"),
        ({"images": np.full((64, 4, 4, 3), -1)}, r"0 to 255; these .* \[-1, -1\]"),
        ({"images": np.zeros((64, 4), np.uint8)}, r"not uint8 of shape \(64, 4\)"),
        ({"images": np.zeros((64, 4, 4, 3), str)}, "must be numbers .* not <U1"),
        ({"labels": np.zeros((63,), int)}, r"of shape \(64,\), not \(63,\)"),
        ({"labels": np.zeros((64, 4), int)}, "must have a single 1 in each row"),
        ({"augmentation": Augmentation(cutout=4)}, "cutout must be below"),
        ({"shard": (0, 3)}, "16 cannot be cut into 3 equal shards; .* 3"),
        ({"shard": (2, 2)}, r"index from 0 to count - 1, not \(2, 2\)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_arguments_are_refused(make, change, message):
    images, labels = _numbered(64)
    arguments = {"images": images, "labels": labels, "batch_size": 16} | change
    with pytest.raises(ValueError, match=message):
        make(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 33}, "A batch of 33 needs .* they have 32 and 32"),
        ({"train_portion": 0.9}, "A batch of 16 needs .* they have 58 and 6"),
        ({"train_portion": 1.0}, "strictly between 0 and 1"),
    ],
)
def test_halves_must_have_a_batch(change, message):
    with pytest.raises(ValueError, match=message):
        bilevel_pairs(*_numbered(64), **{"batch_size": 16, **change})


def test_bad_evaluation_arguments_are_refused():
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        evaluation_batches(*_numbered(4), batch_size=0)


def test_all_shards_are_the_pairs():
    count = 4
    images, labels = _numbered(120, side=8)
    settings = {
        "batch_size": 16,
        "train_portion": 0.6,
        "seed": 3,
        "augmentation": Augmentation(crop_padding=2, flip=True, cutout=3),
        "initial_epoch": 1,
        "mean": MEAN,
    }
    whole, steps = bilevel_pairs(images, labels, **settings)
    parts = [
        bilevel_pairs(images, labels, shard=(index, count), **settings)
        for index in range(count)
    ]
    assert {promised for _, promised in parts} == {steps}
    streams = [part.take(6).as_numpy_iterator() for part, _ in parts]
    for pair, *pieces in zip(whole.take(6).as_numpy_iterator(), *streams, strict=True):
        together = tf.nest.map_structure(lambda *p: np.concatenate(p), *pieces)
        tf.nest.map_structure(np.testing.assert_array_equal, pair, together)
