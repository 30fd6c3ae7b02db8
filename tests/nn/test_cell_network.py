import keras
import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.genotypes.genotype import get_genotype
from advrush_tf.nn.cell_network import CellNetwork
from advrush_tf.official import weights as official
from support import golden, kinks
from support.processes import assert_loads_in_a_new_process
from support.small_networks import golden_network, tiny_network

CASES = (
    "advrush_c4_l5_s1",
    "advrush_c4_l8_aux_s1",
    "amoebanet_c2_l3_s2",
    "darts_v2_c4_l5_s1",
    "imagenet_advrush_c8_l5_s1",
    "pdarts_c4_l5_s1",
    "racl_c4_l5_s1",
)
# Together these have every operation, the auxiliary head and both stems.
IN_FLOAT32 = (
    "advrush_c4_l8_aux_s1",
    "amoebanet_c2_l3_s2",
    "imagenet_advrush_c8_l5_s1",
    "pdarts_c4_l5_s1",
)
PARAMCOUNTS = golden.load("paramcounts")["meta"]["table"]


def _train(net, x, y):
    """Official results of a training-mode pass, by golden name."""
    with tf.GradientTape() as tape:
        if net.auxiliary_head is None:
            heads = {"": net(x, training=True)}
        else:
            heads = dict(zip(("", "_aux"), net.with_auxiliary(x, True), strict=True))
        losses = {
            name: tf.reduce_mean(
                tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
            )
            for name, logits in heads.items()
        }
        loss = losses[""] + 0.4 * losses.get("_aux", 0.0)
    variables = net.trainable_variables
    gradients = tape.gradient(loss, variables)
    gradients = {id(v): g for v, g in zip(variables, gradients, strict=True)}
    stem, classifier = net.stem_blocks[0].kernel, net.classifier.kernel
    return {
        **{f"logits{name}_train": logits for name, logits in heads.items()},
        **{f"loss{name}_train": value for name, value in losses.items()},
        "grad_train_norm": tf.linalg.global_norm(list(gradients.values())),
        "grad_train_stem_weight": np.transpose(gradients[id(stem)], (3, 2, 0, 1)),
        "grad_train_classifier_weight": np.transpose(gradients[id(classifier)]),
    }


def _results(data, dtype):
    net = golden_network(data, dtype)
    official.assign_network(net, golden.group(data, "state"))
    x = tf.constant(np.transpose(data["x"], (0, 2, 3, 1)), dtype)
    results = {"logits_eval_initial": net(x, training=False)}
    results.update(_train(net, x, tf.constant(data["y"])))
    results["logits_eval"] = net(x, training=False)
    return {name: np.asarray(value, np.float64) for name, value in results.items()}


@pytest.mark.parametrize("case", CASES)
def test_float64_equals_the_official_network(case):
    data = golden.load(f"evalnet_{case}")
    for name, value in _results(data, "float64").items():
        # Weight gradients are stored as float32.
        stored = 1e-6 if name.endswith("_weight") else 1e-8
        error = np.abs(value - data[name]).max()
        assert error <= stored * np.abs(data[name]).max(), name


@pytest.mark.parametrize("case", IN_FLOAT32)
def test_float32_within_five_times_pytorchs_own_deviation(case):
    data = golden.load(f"evalnet_{case}")
    deviation = data["meta"]["float32_deviation"]
    with kinks.record() as sides:
        results = _results(data, "float32")
    # Which kinks rounding turns depends on the machine: float64 takes the same sides.
    with kinks.replay(sides) as turned:
        reference = _results(data, "float64")
    assert len(turned.distances) <= max(1, 1e-5 * turned.kinks)
    assert max(turned.distances, default=0) <= 8
    for name, value in results.items():
        error = np.abs(value - reference[name]).max()
        # A single number may have been recorded closer than float32 resolves it.
        rounding = 1e-6 if value.ndim == 0 else 0
        # Three on two cores; on one, sums are of other parts, and it is up to four.
        bound = max(5 * deviation[name][0], rounding * np.abs(data[name]).max())
        assert error <= bound, name


def _parameters(net):
    return sum(int(np.prod(v.shape)) for v in net.trainable_variables)


# The others are counted with their multiply-adds, in test_profiling.py.
@pytest.mark.parametrize(
    "row",
    [r for r in PARAMCOUNTS if r["arch"] not in ("ADVRUSH", "AmoebaNet")],
    ids=lambda row: row["arch"],
)
def test_official_numbers_of_parameters(row):
    # Weights without values have shapes, which is what is counted.
    with keras.StatelessScope(initialize_variables=False):
        net = CellNetwork(row["arch"], 10, (32, 32, 3), auxiliary=True)
    head = _parameters(net.auxiliary_head)
    assert _parameters(net) == row["params_with_aux"]
    assert _parameters(net) - head == row["params_no_aux"]


def test_images_are_normalised_inside():
    plain, net = tiny_network(), tiny_network(mean=(0.25,), std=(0.5,))
    net.set_weights(plain.get_weights())
    x = np.random.default_rng(0).random((2, 8, 8, 1), np.float32)
    expected = plain((x - 0.25) / 0.5, training=False)
    np.testing.assert_allclose(net(x, training=False), expected, rtol=1e-5)


def test_a_saved_network_gives_the_same_in_a_new_process(tmp_path):
    settings = {"mean": (0.25,), "std": (0.5,), "drop_path": 0.25, "seed": 1}
    net = CellNetwork("ADVRUSH", 3, (8, 8, 1), 2, 1, **settings)
    x = np.random.default_rng(0).random((2, 8, 8, 1), np.float32)
    net(x, training=True)
    assert_loads_in_a_new_process(
        net,
        x,
        tmp_path,
        "network.genotype == advrush_tf.get_genotype('ADVRUSH')",
        "float(network.drop_path_rate) == 0.25",
    )


def test_dropped_paths_are_zero_for_whole_examples_and_scaled_elsewhere():
    net = tiny_network(drop_path=0.5, seed=0)
    dropped = net._drop(tf.ones((1000, 2, 2, 3))).numpy()
    rows = dropped.reshape(1000, -1)
    assert set(np.unique(rows)) == {0.0, 2.0}
    assert (rows == rows[:, :1]).all()
    assert 0.4 < (rows[:, 0] == 0).mean() < 0.6
    again = net._drop(tf.ones((1000, 2, 2, 3))).numpy()
    assert (again != dropped).any()
    net.drop_path_rate.assign(0.0)
    assert (net._drop(tf.ones((9, 1, 1, 1))).numpy() == 1).all()


def test_paths_drop_in_training_only():
    net, x = tiny_network(drop_path=0.9, seed=0), np.ones((4, 8, 8, 1), np.float32)
    same = [net(x, training=False).numpy() for _ in range(2)]
    np.testing.assert_array_equal(*same)
    others = [net(x, training=True).numpy() for _ in range(2)]
    assert (others[0] != others[1]).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stem": "cifar10"}, "'cifar', 'imagenet'"),
        ({"drop_path": 1.0}, "drop_path"),
        ({"auxiliary": True}, "auxiliary"),
        ({"stem": "imagenet"}, "32x32|64x64"),
        ({"mean": (0.5,)}, "mean and std"),
    ],
)
def test_wrong_arguments(settings, message):
    with pytest.raises(ValueError, match=message):
        tiny_network(**settings)


@pytest.mark.parametrize("shape", [(), (8, 8), (8, 7, 1), (8, 8, 0)])
def test_wrong_image_shapes(shape):
    with pytest.raises(ValueError, match="at least 8x8 pixels and a channel"):
        CellNetwork("ADVRUSH", 3, shape, 2, 2, mean=(0.5,), std=(0.5,))


def test_without_an_auxiliary_head_there_are_no_auxiliary_logits():
    with pytest.raises(ValueError, match="auxiliary=False"):
        tiny_network().with_auxiliary(tf.zeros((1, 8, 8, 1)))


def test_wrong_entries_of_a_state_are_named():
    data = golden.load("evalnet_advrush_c4_l5_s1")
    net, state = golden_network(data, "float32"), golden.group(data, "state")
    name = "cells.2._ops.0.op.1.weight"
    with pytest.raises(ValueError, match=name):
        official.assign_network(net, {k: v for k, v in state.items() if k != name})
    other = CellNetwork(get_genotype("RACL"), 10, (32, 32, 3), 4, 5)
    with pytest.raises(ValueError, match="entry 'cells"):
        official.assign_network(other, state)
