import keras
import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.nn.classifier import ImageClassifier

MEAN, STD = (0.25, 0.5), (0.5, 0.25)
PROVENANCE = {"epoch": 3, "settings": {"widths": [2, 4], "name": "é"}, "best": None}


@keras.saving.register_keras_serializable("test_classifier")
class Summing(ImageClassifier):
    """The least that a network does: its logits are sums over the pixels."""

    def __init__(
        self,
        num_classes=2,
        image_shape=(2, 2, 2),
        mean=None,
        std=None,
        provenance=None,
        **kwargs,
    ):
        super().__init__(num_classes, image_shape, mean, std, provenance, **kwargs)
        self.scale = self.add_weight(name="scale", shape=(), initializer="ones")
        self.built = True

    def call(self, x, training=False):
        return tf.reduce_sum(self.prepare(x), [1, 2]) * self.scale.value


def _images(dtype=np.float32):
    return np.random.default_rng(0).random((3, 2, 2, 2)).astype(dtype)


def test_prepared_images_are_normalised_per_channel():
    x = _images()
    got = Summing(mean=MEAN, std=STD).prepare(x)
    assert got.dtype == tf.float32
    np.testing.assert_allclose(got, (x - np.array(MEAN)) / np.array(STD), rtol=1e-5)
    np.testing.assert_array_equal(Summing().prepare(x), x)


@pytest.mark.parametrize(
    ("policy", "dtype"),
    [
        ("float64", tf.float64),
        ("float32", tf.float32),
        ("mixed_bfloat16", tf.bfloat16),
    ],
)
@pytest.mark.parametrize("given", [np.float16, np.float32, np.float64])
def test_prepared_images_have_the_networks_arithmetic(policy, dtype, given):
    x = _images(given)
    got = Summing(mean=MEAN, std=STD, dtype=policy).prepare(x)
    assert got.dtype == dtype
    exact = (x.astype(np.float64) - np.array(MEAN)) / np.array(STD)
    rounding = {"float64": 1e-15, "float32": 1e-6}
    np.testing.assert_allclose(
        tf.cast(got, tf.float64), exact, rtol=0, atol=4 * rounding.get(policy, 8e-3)
    )


def test_images_are_normalised_before_they_are_rounded():
    # One thousandth above a mean of 0.3 would be rounded away in half precision.
    net = Summing(2, (1, 1, 1), (0.3,), (0.001,), dtype="mixed_bfloat16")
    got = net.prepare(tf.constant([[[[0.301]]]]))
    np.testing.assert_allclose(tf.cast(got, tf.float32), 1.0, atol=0.01)


def test_numbers_of_the_task_can_be_read():
    net = Summing(5, [4, 6, 1])
    assert (net.num_classes, net.image_shape) == (5, (4, 6, 1))


def test_configuration_makes_the_same_network():
    net = Summing(2, [2, 2, 2], list(MEAN), list(STD), PROVENANCE, name="mine")
    config = net.get_config()
    again = Summing.from_config(config)
    assert again.get_config() == config
    assert config["name"] == "mine"
    assert config["mean"] == MEAN
    assert config["provenance"] == PROVENANCE


def test_provenance_is_a_copy_that_cannot_be_changed_from_outside():
    given = {"widths": [1, 2], "deep": {"rates": (0.5, 0.25)}}
    net = Summing(provenance=given)
    given["widths"].append(3)
    net.provenance["deep"]["rates"].append(4)
    assert net.provenance == {"widths": [1, 2], "deep": {"rates": [0.5, 0.25]}}
    assert type(net.provenance) is type(net.provenance["deep"]) is dict
    assert Summing().provenance == {}


def test_provenance_may_be_replaced_and_is_saved(tmp_path):
    net = Summing(mean=MEAN, std=STD, provenance={"old": True})
    net.provenance = PROVENANCE | {"accuracy": np.float32(0.5), "seeds": np.arange(2)}
    expected = PROVENANCE | {"accuracy": 0.5, "seeds": [0, 1]}
    assert net.provenance == expected
    net.scale.assign(3.0)
    net.save(tmp_path / "net.keras")
    again = keras.models.load_model(tmp_path / "net.keras")
    assert again.provenance == expected
    np.testing.assert_array_equal(again(_images()), net(_images()))


@pytest.mark.parametrize(
    "value",
    [{"x": float("nan")}, {"x": {1, 2}}, {"x": object()}, {"x": np.inf}, {"x": b"a"}],
    ids=["nan", "set", "object", "infinity", "bytes"],
)
def test_provenance_that_json_cannot_hold_is_refused(value):
    with pytest.raises(ValueError, match="JSON cannot hold"):
        Summing(provenance=value)
    net = Summing(provenance=PROVENANCE)
    with pytest.raises(ValueError, match="JSON cannot hold"):
        net.provenance = value
    assert net.provenance == PROVENANCE


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        (MEAN, None),
        (None, STD),
        ((0.5,), (0.5,)),
        (MEAN, (0.5, 0.0)),
        ((0.5, float("nan")), STD),
    ],
)
def test_mean_and_std_have_to_fit_the_images(mean, std):
    with pytest.raises(ValueError, match="mean and std"):
        Summing(mean=mean, std=std)
