import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.attacks.cleverhans_compat import pgd_from
from advrush_tf.attacks.geometry import Radius
from advrush_tf.attacks.pgd import SignAscent, Start, usual_step_size
from advrush_tf.losses import cross_entropy
from advrush_tf.official import weights as official
from support import golden
from support.small_networks import golden_network, tiny_batch, tiny_network

DATA = golden.load("adv_advrush_c4_l5_s1")
# As recorded: float32 images, so that x + noise is one too.
EPSILON, STEP = DATA["meta"]["config"]["epsilon"], DATA["meta"]["config"]["step"]


def nhwc(images):
    return np.transpose(images, (0, 2, 3, 1))


def test_pgd_20_of_the_official_evaluation():
    net = golden_network(DATA, "float64")
    official.assign_network(net, golden.group(DATA, "state"))
    x, y = tf.constant(DATA["x_nhwc"], tf.float64), tf.constant(DATA["y"])
    attack = SignAscent(EPSILON, STEP, 20, Start.UNIFORM)
    start = x + nhwc(DATA["pgd20/noise"])
    # Traced once: twenty steps of this network take longer eagerly.
    crafted = tf.function(attack.ascend)(
        lambda images: cross_entropy(y, net(images, training=False)), x, start
    )
    expected = nhwc(DATA["pgd20/x_adv"])
    np.testing.assert_allclose(crafted, expected, rtol=0, atol=1e-8)
    wrong = np.argmax(net(crafted, training=False), -1) != DATA["y"]
    assert wrong.sum() == DATA["pgd20/err_adv"]


def test_the_attack_is_cleverhans_pgd_without_its_rounding():
    net = tiny_network()
    x, y = tiny_batch(size=16)
    start = np.random.default_rng(1).uniform(-0.1, 0.1, x.shape).astype(np.float32)
    start = np.clip(x + start, 0, 1) - x
    expected = pgd_from(tf.constant(start))(
        net, x, 0.1, 0.03, 5, np.inf, None, 0.0, 1.0, tf.constant(y), rand_init=True
    )
    crafted = SignAscent(0.1, 0.03, 5).ascend(
        lambda z: cross_entropy(y, net(z, training=False)), x, x + start
    )
    # A sign may turn where rounding decides it.
    assert np.mean(np.abs(crafted - expected) < 1e-6) > 0.99


def test_two_steps_by_hand():
    slope = np.array([[2.0, -3.0, 0.0, 1.0]])
    x = tf.constant([[0.5, 0.5, 0.5, 0.99]], tf.float64)
    attack = SignAscent(epsilon=0.15, step_size=0.1, steps=2)
    crafted = attack.ascend(lambda z: tf.reduce_sum(slope * z, -1), x, x + 0.01)
    # Up, down, unmoved from the start, and up to the border of [0, 1].
    np.testing.assert_allclose(crafted, [[0.65, 0.35, 0.51, 1.0]], atol=1e-12)


def test_starts():
    x = tf.zeros((2000, 1, 1, 1)) + 0.5
    uniform = SignAscent(0.2, 0.1, 1, Start.UNIFORM).noise(x, (0, 1)).numpy()
    assert np.abs(uniform).max() <= 0.2
    assert np.abs(uniform.std() - 0.2 / np.sqrt(3)) < 0.005
    gaussian = SignAscent(start=Start.GAUSSIAN).noise(x, (0, 1)).numpy()
    assert np.abs(gaussian.std() - 0.001) < 5e-5
    again = SignAscent(0.2, 0.1, 1, "uniform").noise(x, (0, 1)).numpy()
    np.testing.assert_array_equal(uniform, again)
    other = SignAscent(0.2, 0.1, 1, "uniform").noise(x, (0, 2)).numpy()
    assert (uniform != other).any()


def test_a_uniform_start_is_an_image():
    x = tf.ones((2000, 1, 1, 1))
    noise = SignAscent(0.2, 0.1, 1, Start.UNIFORM).noise(x, (0, 1)).numpy()
    assert noise.max() == 0
    assert noise.min() < -0.19
    assert 900 < (noise == 0).sum() < 1100


def test_the_usual_steps_of_pgd_cross_the_ball():
    assert usual_step_size(0.08, 20) == pytest.approx(0.01)
    assert usual_step_size(0.08, 100) == pytest.approx(0.002)
    assert usual_step_size(0.08, 2) == 0.08


def test_examples_do_not_depend_on_their_batch():
    net = tiny_network()
    x, y = tiny_batch(size=6)
    attack = SignAscent(0.1, 0.03, 3)

    def crafted(x, y):
        return attack.ascend(
            lambda z: cross_entropy(y, net(z, training=False)), x, x + 0.01
        ).numpy()

    parts = [crafted(x[i : i + 2], y[i : i + 2]) for i in (0, 2, 4)]
    np.testing.assert_allclose(crafted(x, y), np.concatenate(parts), atol=1e-6)


def test_no_weight_gradient_in_the_attack():
    net = tiny_network()
    x, y = tiny_batch()

    @tf.function(autograph=False)
    def craft(x, y):
        return SignAscent(0.1, 0.03, 3).craft(
            lambda z: cross_entropy(y, net(z, training=False)), x, (0, 0)
        )

    library = craft.get_concrete_function(x, y).graph.as_graph_def().library
    # TensorFlow runs only what leads to a result of the loop's body.
    live = [op for function in library.function for op in _live_operations(function)]
    assert live.count("DepthwiseConv2dNative") > 2
    assert not [name for name in live if "BackpropFilter" in name]


def _live_operations(function):
    nodes = {node.name: node for node in function.node_def}
    waiting, seen = [*function.ret.values(), *function.control_ret.values()], set()
    while waiting:
        name = waiting.pop().lstrip("^").split(":")[0]
        if name in nodes and name not in seen:
            seen.add(name)
            waiting.extend(nodes[name].input)
    return [nodes[name].op for name in seen]


def test_a_radius_goes_through_unchanged_and_is_saved_as_a_number():
    attack = SignAscent(Radius("8/255"))
    assert str(attack.epsilon) == "8/255"
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(attack)))
    assert config["config"]["epsilon"] == 8 / 255
    assert keras.saving.deserialize_keras_object(config) == attack


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epsilon": 0.0}, "epsilon"),
        ({"step_size": -1.0}, "step_size"),
        ({"steps": 0}, "steps"),
        ({"start": "middle"}, "middle"),
    ],
)
def test_wrong_numbers(values, message):
    with pytest.raises(ValueError, match=message):
        SignAscent(**values)
