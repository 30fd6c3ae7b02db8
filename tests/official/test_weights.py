import contextlib
import functools

import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.genotypes.search_space import ALL_PRIMITIVES
from advrush_tf.nn.supernet import Supernet
from advrush_tf.official import weights as official
from advrush_tf.search import penalty
from support import golden, kinks

DATA = golden.load("supernet_c4_l5_s1")
DEVIATION = DATA["meta"]["float32_deviation"]
TABLES = ("alphas_normal", "alphas_reduce")
LABELS = tf.constant(DATA["y"])
LENGTHS = (0.3, 1.5)
# The one whose differences cancel most.
SHORTEST = LENGTHS[:1]
# Stored as float32, so good to its rounding.
ROUNDED = 1e-6


def _state():
    state = golden.group(DATA, "state")
    return {**state, **{name: DATA[name] for name in TABLES}}


def _supernet(dtype):
    net = Supernet(10, 4, 5, dtype=dtype)
    net.build((None, 32, 32, 3))
    return net


def _nhwc(images, dtype):
    return tf.constant(np.transpose(images, (0, 2, 3, 1)), dtype)


def _losses(net, x, labels, training):
    logits = net(x, training=training)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    return logits, losses


def _train(net, x, labels=LABELS):
    """Training-mode pass: named results, and the gradients of all weights by id."""
    variables = net.trainable_variables
    with tf.GradientTape() as tape:
        logits, losses = _losses(net, x, labels, True)
        loss = tf.reduce_mean(losses)
    gradients = tape.gradient(loss, [v.value for v in variables])
    by_id = {id(v): g.numpy() for v, g in zip(variables, gradients, strict=True)}
    results = {"logits_train": logits, "loss_train": loss}
    for name in TABLES:
        results[f"grad_train_{name}"] = by_id[id(getattr(net, name))]
    return results, by_id


def _evaluate(net, x):
    tables = [getattr(net, name).value for name in TABLES]
    with tf.GradientTape() as tape:
        logits, losses = _losses(net, x, LABELS, False)
        loss = tf.reduce_mean(losses)
    gradients = tape.gradient(loss, tables)
    gradient = penalty.input_gradient(lambda x: net(x, training=False), x, LABELS)
    return {
        "logits_eval": logits,
        "loss_eval": loss,
        "loss_eval_per_sample": losses,
        **{f"grad_eval_{n}": g for n, g in zip(TABLES, gradients, strict=True)},
        "input_grad_eval_sum": np.transpose(gradient, (0, 3, 1, 2)),
        **{
            f"penalty/h{h}/z": np.transpose(
                penalty.probe_direction(gradient, h), (0, 3, 1, 2)
            )
            for h in LENGTHS
        },
    }


def _penalty(net, x, h):
    tables = [getattr(net, name).value for name in TABLES]

    with tf.GradientTape() as tape:
        # Not `curvature_penalty`, whose check traces the network under `kinks`.
        norms = penalty.gradient_changes(lambda x: net(x, training=False), x, LABELS, h)
        value = DATA["meta"]["lambda_"] * tf.reduce_mean(norms)
    results = norms, value, *tape.gradient(value, tables)
    names = ("norms", "value", *(f"grad_{name}" for name in TABLES))
    prefix = f"penalty_sum/h{h}"
    return {f"{prefix}/{n}": r for n, r in zip(names, results, strict=True)}


def _hessian_vector_product(net, dtype):
    """Hessian of each example's loss times its own vector, by nested tapes."""
    x, v = (_nhwc(DATA[f"hvp/{name}"], dtype) for name in "xv")
    labels = tf.constant(DATA["hvp/y"])
    with tf.GradientTape() as tape:
        tape.watch(x)
        gradient = penalty.input_gradient(lambda x: net(x, training=False), x, labels)
        along = tf.reduce_sum(gradient * v)
    return {"hvp/hv": np.transpose(tape.gradient(along, x), (0, 3, 1, 2))}


def _everything(dtype, lengths=LENGTHS, watch=contextlib.nullcontext):
    """All results of one run, each part of it within the context `watch(part)`.

    Args:
        dtype: of the network.
        lengths: of the penalty's probes.
        watch: makes a context of a part's name.

    Returns:
        The names of each part's results, the results by golden name, and gradients and
        statistics by official name.
    """
    net = _supernet(dtype)
    official.assign_supernet(net, _state())
    x = tf.constant(DATA["x_nhwc"], dtype)
    with watch("training"):
        results, by_id = _train(net, x)
    parts = {"training": results}
    for part, run in {
        "inference": lambda: _evaluate(net, x),
        **{f"h{h}": functools.partial(_penalty, net, x, h) for h in lengths},
        "hvp": lambda: _hessian_vector_product(net, dtype),
    }.items():
        with watch(part):
            parts[part] = run()
    return {
        "parts": {part: tuple(results) for part, results in parts.items()},
        "results": {
            name: np.asarray(result, np.float64)
            for results in parts.values()
            for name, result in results.items()
        },
        "gradients": _by_official_name(net, by_id, golden.group(DATA, "grad")),
        "statistics": _by_official_name(
            net,
            {id(v): v.numpy() for v in net.non_trainable_variables},
            golden.group(DATA, "state_after"),
        ),
    }


@functools.cache
def _numbered():
    """A number for each element of the official tensors, and the net that holds them.

    `assign_supernet` itself so says where each element goes.
    """
    numbered, total = {}, 0
    for name, value in _state().items():
        numbered[name] = np.arange(total, total + value.size).reshape(value.shape)
        total += value.size
    net = _supernet("float64")
    official.assign_supernet(net, numbered)
    return numbered, total, net


def _by_official_name(net, values, wanted):
    """Takes arrays of our layout apart into those official tensors that are wanted."""
    numbered, total, places = _numbered()
    flat = np.full(total, np.nan)
    for source, target in zip(net.weights, places.weights, strict=True):
        if id(source) in values:
            flat[target.numpy().astype(int).ravel()] = values[id(source)].ravel()
    return {name: flat[numbered[name]] for name in wanted}


@pytest.fixture(scope="module")
def exact():
    return _everything("float64")


@pytest.fixture(scope="module")
def single():
    """The float32 run, and the sides that it took at the kinks of each part."""
    sides = {}

    @contextlib.contextmanager
    def watch(part):
        with kinks.record() as sides[part]:
            yield

    return _everything("float32", SHORTEST, watch), sides


@pytest.fixture(scope="module")
def forced(single):
    """The float64 run that takes the same sides, and what it turned in each part."""
    _, sides = single
    turned = {}

    @contextlib.contextmanager
    def watch(part):
        with kinks.replay(sides[part]) as turned[part]:
            yield

    return _everything("float64", SHORTEST, watch), turned


def _error(actual, expected):
    assert actual.shape == expected.shape
    return np.abs(actual - expected).max()


NAMES = (
    "logits_train",
    "loss_train",
    *(f"grad_train_{name}" for name in TABLES),
    "logits_eval",
    "loss_eval",
    "loss_eval_per_sample",
    *(f"grad_eval_{name}" for name in TABLES),
    "input_grad_eval_sum",
    *(
        f"penalty_sum/h{h}/{quantity}"
        for h in LENGTHS
        for quantity in ("norms", "value", *(f"grad_{name}" for name in TABLES))
    ),
    "penalty/h0.3/z",
    "penalty/h1.5/z",
    "hvp/hv",
)


@pytest.mark.parametrize("name", NAMES)
def test_float64_equals_the_official_numbers(exact, name):
    expected = DATA[name]
    bound = ROUNDED if name == "input_grad_eval_sum" else 1e-8
    error = _error(exact["results"][name], expected)
    assert error < bound * np.abs(expected).max()


def test_float64_gradient_of_every_weight(exact):
    # The convolutions before a batch normalisation have tiny gradients in places;
    # what is rounded is each stored number, not the tensor's largest.
    expected = golden.group(DATA, "grad")
    weights = set(_state()) - set(TABLES)
    assert set(expected) == {n for n in weights if not _is_buffer(n)}
    for name, value in expected.items():
        bound = ROUNDED * max(np.abs(value).max(), 1e-6)
        assert _error(exact["gradients"][name], value) < bound, name


def test_float64_running_statistics(exact):
    expected = golden.group(DATA, "state_after")
    assert {n for n in _state() if "running" in n} == {
        n for n in expected if "running" in n
    }
    for name, value in expected.items():
        if "running" in name:
            error = _error(exact["statistics"][name], value)
            assert error < 1e-8 * np.abs(value).max(), name


def _is_buffer(name):
    return "running" in name or "num_batches" in name


def test_float64_of_a_supernet_with_all_primitives():
    data = golden.load("supernet_extended_c2_l3_s2")
    primitives = data["meta"]["primitives"]
    net = Supernet(10, 2, 3, primitives=tuple(primitives), dtype="float64")
    net.build((None, 12, 12, 3))
    state = golden.group(data, "state") | {name: data[name] for name in TABLES}
    official.assign_supernet(net, state)
    x = _nhwc(data["x"], "float64")
    results, _ = _train(net, x, tf.constant(data["y"]))
    results["logits_eval"] = net(x, training=False)
    assert set(primitives) == set(ALL_PRIMITIVES)
    for name, value in results.items():
        error = _error(np.asarray(value), data[name])
        assert error < 1e-8 * np.abs(data[name]).max(), name


# In float32, rounding may turn a ReLU, and what depends on its slope then moves by far
# more than rounding; which ones turn depends on the machine. So the reference is the
# float64 run with the float32 run's kinks, whose own difference from the official run
# the first three tests bound.


def test_float32_turns_few_kinks_all_within_rounding(forced):
    _, turned = forced
    distances = [d for part in turned.values() for d in part.distances]
    # Seen with two sets of CPU kernels and both lengths of the probe: 5 and 4 of 14.5
    # million, none beyond 0.8.
    assert len(distances) <= 2e-6 * sum(part.kinks for part in turned.values())
    assert max(distances, default=0) <= 8


def test_parts_without_a_turned_kink_have_the_official_reference(forced):
    run, turned = forced
    for part, names in run["parts"].items():
        for name in names if not turned[part].distances else ():
            bound = ROUNDED if name == "input_grad_eval_sum" else 1e-8
            error = _error(run["results"][name], DATA[name])
            assert error < bound * np.abs(DATA[name]).max(), name


# PyTorch's deviation, relative to the largest value, is one draw for each quantity,
# from 0.1 roundings (a loss that happens to be nearly a float32 number) to 8. A lucky
# draw must not bind another implementation, so none counts as less than the usual one:
# the root mean square of them all, 2.9 roundings.
USUAL = np.sqrt(np.mean([(DEVIATION[n][0] / DEVIATION[n][1]) ** 2 for n in NAMES]))


def _times_pytorchs(name, error):
    deviation, largest = DEVIATION[name]
    return error / max(deviation, USUAL * largest)


# Ours are draws too, one for each processor and kind of kernel: up to 4.5 was seen (the
# training mode's alpha gradient, a sum over all pixels of products that nearly cancel,
# which TensorFlow adds up in float32 and PyTorch in float64), and 1.1 to 1.3 of all
# together.
LARGEST, TOGETHER = 6, 2


def test_float32_about_as_far_off_as_pytorch(single, forced):
    ours, exact = (run[0]["results"] for run in (single, forced))
    times = {n: _times_pytorchs(n, _error(ours[n], exact[n])) for n in ours}
    assert max(times.values()) <= LARGEST, times
    assert np.sqrt(np.mean(np.square([*times.values()]))) <= TOGETHER, times


@pytest.mark.parametrize(
    ("kind", "key"), [("gradients", "grad"), ("statistics", "state_after")]
)
def test_float32_gradients_and_statistics(single, forced, kind, key):
    names = [name for name in golden.group(DATA, key) if "num_batches" not in name]
    ours, reference = single[0][kind], forced[0][kind]
    errors = [_error(ours[name], reference[name]) for name in names]
    assert _times_pytorchs(f"{key}/*", max(errors)) <= LARGEST


@pytest.fixture(scope="module")
def net():
    return _supernet("float32")


def _without(state, name):
    return {key: value for key, value in state.items() if key != name}


CONVOLUTION = "cells.1._ops.3._ops.4.op.1.weight"


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda s: _without(s, "alphas_reduce"), "alphas_reduce"),
        (lambda s: _without(s, CONVOLUTION), CONVOLUTION),
        (
            lambda s: _without(s, "cells.0.preprocess1.op.2.running_var"),
            "cells.0.preprocess1.op.2.running_var",
        ),
        (lambda s: {**s, "cells.9.weight": np.zeros(3)}, "cells.9.weight"),
        (lambda s: {**s, CONVOLUTION: s[CONVOLUTION][:-1]}, CONVOLUTION),
        (lambda s: {**s, CONVOLUTION: s[CONVOLUTION].T}, CONVOLUTION),
        (
            lambda s: {**s, "classifier.weight": s["classifier.weight"].T},
            "classifier.weight",
        ),
        (lambda s: {**s, "alphas_normal": np.zeros((14, 7))}, "alphas_normal"),
        (lambda s: {**s, "classifier.bias": np.float64(1)}, "classifier.bias"),
    ],
)
def test_wrong_entries_are_named_and_nothing_is_assigned(net, change, name):
    before = net.get_weights()
    with pytest.raises(ValueError, match=f"'{name}'"):
        official.assign_supernet(net, change(_state()))
    for old, new in zip(before, net.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_counters_of_batches_may_be_there_or_not(net):
    state = _state()
    official.assign_supernet(net, state)
    before = net.get_weights()
    names = [name for name in state if "num_batches" in name]
    assert names
    for name in names:
        del state[name]
    official.assign_supernet(net, state)
    for old, new in zip(before, net.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_search_model_is_taken_too(net):
    class Model:
        supernet = net

    state = {**_state(), "alphas_normal": np.full((14, 8), 0.25)}
    official.assign_supernet(Model(), state)
    np.testing.assert_array_equal(net.alphas_normal.numpy(), state["alphas_normal"])
