import keras
import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.attacks.catalogue import named_attack
from advrush_tf.attacks.geometry import Norm
from advrush_tf.attacks.pgd import SignAscent, Start
from advrush_tf.attacks.robustness import evaluate_robustness
from advrush_tf.fit.objectives import FGSMRS, MART, PGD, TRADES
from advrush_tf.landscape.surfaces import loss_cut, loss_surface
from advrush_tf.search.penalty import input_gradient
from support.attacked import fitted

EPSILON = 0.1
# Each sum of these with signs is another one, and odd.
WEIGHTS = np.array([1.0, 2.0, 4.0, 8.0], np.float32)


def two_classes(images):
    """Logits 0 and w @ x: the loss of label 0 is log(1 + exp(w @ x))."""
    second = tf.reshape(images, [-1, 4]) @ WEIGHTS[:, np.newaxis]
    return tf.concat([tf.zeros_like(second), second], 1)


def _logits_of(losses):
    return np.log(np.expm1(losses))


def _losses(model, x, y):
    """Cross-entropy by NumPy."""
    logits = np.asarray(model(tf.constant(x)), np.float64)
    largest = logits.max(-1)
    sums = np.exp(logits - largest[:, np.newaxis]).sum(-1)
    return np.log(sums) + largest - logits[np.arange(len(y)), y]


_MAKES = [
    SignAscent,
    PGD,
    TRADES,
    MART,
    FGSMRS,
    lambda epsilon: named_attack("pgd5x2", Norm.LINF, epsilon, epsilon),
    lambda epsilon: named_attack("cw", Norm.L2, epsilon),
    lambda epsilon: named_attack("autoattack-plus", Norm.LINF, epsilon),
]


@pytest.mark.parametrize("text", ["8/255", "8.0/255", "8 / 255"])
def test_a_radius_may_be_a_text_wherever_there_is_one(text):
    x, y = np.full((1, 2, 2, 1), 0.1, np.float32), np.array([0])
    for make in _MAKES:
        assert make(epsilon=text) == make(epsilon=8 / 255)
    numbers = [
        (
            loss_surface(two_classes, x, y, radius, points=3).losses,
            loss_cut(two_classes, x, y, radius, points=4).losses,
            evaluate_robustness(two_classes, x, y, radius, attack="fgsm").images,
        )
        for radius in (text, 8 / 255)
    ]
    for one, other in zip(*numbers, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_plane_of_an_image_by_hand():
    # Near the border of [0, 1], which the plane crosses.
    x, y = np.full((1, 2, 2, 1), 0.1, np.float32), np.array([0])
    surface = loss_surface(two_classes, x, y, 0.2, points=5)
    axis = [-0.2, -0.1, 0, 0.1, 0.2]
    np.testing.assert_allclose(surface.first, axis, atol=1e-12)
    np.testing.assert_allclose(surface.second, axis, atol=1e-12)
    logits = _logits_of(surface.losses)
    # The gradient's sign is 1 everywhere, whence the logit rises by 15 a step.
    slope = (logits[2, 4] - logits[2, 0]) / 0.4
    assert slope == pytest.approx(np.rint(slope), abs=1e-3)
    assert np.rint(slope) in range(-15, 16, 2)
    expected = 1.5 + 15 * surface.first[:, np.newaxis] + slope * surface.second
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_the_gradient_of_the_other_label_points_the_other_way():
    x, y = np.full((1, 2, 2, 1), 0.1, np.float32), np.array([1])
    losses = loss_surface(two_classes, x, y, 0.2, points=3).losses[:, 1]
    np.testing.assert_allclose(losses, np.log1p(np.exp([-4.5, -1.5, 1.5])), 1e-5)


def test_no_gradient_has_no_direction():
    def bowl(images):
        second = tf.reduce_sum((images - 0.5) ** 2, [1, 2, 3])
        return tf.stack([tf.zeros_like(second), second], 1)

    x = np.full((3, 4, 4, 2), 0.5, np.float32)
    surface = loss_surface(bowl, x, np.zeros(3, int), 0.5, points=5)
    # Whatever its signs, 32 values of the random direction are 1 or -1.
    expected = np.log1p(np.exp(32 * surface.second**2))
    np.testing.assert_allclose(surface.losses, np.tile(expected, (5, 1)), rtol=1e-6)


def test_directions_of_a_sure_classifier_are_not_rounding():
    # The gradient in the label's logit is 1e-11, and 0 as a float32 probability less 1.
    def sure(images):
        total = tf.reduce_sum(images, [1, 2, 3])
        return tf.stack([25 + 3 * total, total], 1)

    x, y = np.full((1, 2, 2, 1), 0.1, np.float32), np.zeros(1, int)
    surface = loss_surface(sure, x, y, 0.1, points=3)
    totals = 0.4 - 4 * surface.first
    np.testing.assert_allclose(surface.losses[:, 1], np.exp(-25 - 2 * totals), 1e-4)
    # The attack makes the image black.
    cut = loss_cut(sure, x, y, 0.2, points=4)
    totals = 0.4 * (1 - cut.steps)
    np.testing.assert_allclose(cut.losses[0], np.exp(-25 - 2 * totals), 1e-4)


@pytest.mark.parametrize("measure", [loss_surface, loss_cut])
@pytest.mark.parametrize("factor", [0.0, np.nan])
def test_gradients_that_are_not_finite_are_told_of(measure, factor, recwarn):
    @tf.custom_gradient
    def bad(images):
        return tf.identity(images), lambda gradient: factor * gradient

    x, y = np.full((1, 2, 2, 1), 0.1, np.float32), np.zeros(1, int)
    measure(
        lambda images: two_classes(bad(images)),
        x,
        y,
        0.1,
        {loss_cut: 4}.get(measure, 3),
    )
    found = [str(one.message) for one in recwarn if one.filename == __file__]
    assert len(found) == np.isnan(factor)
    assert all("gradient has NaN or infinite entries" in text for text in found)


def test_directions_are_of_their_image_and_seed():
    x, y = np.full((8, 2, 2, 1), 0.1, np.float32), np.zeros(8, int)
    one = loss_surface(two_classes, x[:1], y[:1], 0.2, 3)
    many = loss_surface(two_classes, x, y, 0.2, 3)
    other = loss_surface(two_classes, x, y, 0.2, 3, seed=1)
    np.testing.assert_allclose(many.losses[:, 1], one.losses[:, 1])
    assert (many.losses[1, 0], other.losses[1, 0]) != (one.losses[1, 0],) * 2
    assert many.losses[1, 0] != other.losses[1, 0]


def test_the_middle_is_the_clean_loss():
    model, x, y = fitted()
    surface = loss_surface(model, x, y, EPSILON, points=3)
    assert surface.losses.dtype == np.float64
    assert surface.losses[1, 1] == pytest.approx(_losses(model, x, y).mean())


def test_the_slope_in_the_middle_is_the_gradients_l1_norm():
    model, x, y = fitted()
    radius = 1e-3
    losses = loss_surface(model, x, y, radius, points=3).losses
    slope = (losses[2, 1] - losses[0, 1]) / (2 * radius)
    gradients = input_gradient(model, tf.constant(x), tf.constant(y)).numpy()
    expected = np.abs(gradients).sum((1, 2, 3)).mean()
    assert slope == pytest.approx(expected, rel=1e-3)


def test_models_infer():
    model, x, y = fitted()
    dropped = keras.Sequential([keras.layers.Dropout(0.5), model])
    for one, other in zip(_both(model, x, y), _both(dropped, x, y), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def _both(model, x, y, **settings):
    surface = loss_surface(model, x, y, EPSILON, 5, **settings)
    return surface.losses, loss_cut(model, x, y, EPSILON, 7, **settings).losses


@pytest.mark.parametrize("batch_size", [1, 3, 7, 1000])
def test_losses_do_not_depend_on_the_batch_size(batch_size):
    model, x, y = fitted()
    expected = _both(model, x[:10], y[:10], batch_size=10)
    found = _both(model, x[:10], y[:10], batch_size=batch_size)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_a_model_is_compiled_once_for_a_batch_at_most():
    model, x, y = fitted()
    batches = []

    def spy(images):
        # One graph for all sizes would not show how many images it is given.
        images = tf.reshape(images, tuple(images.shape))
        batches.append(images.shape[0])
        return model(images, training=False)

    _both(spy, x[:5], y[:5], batch_size=4)
    few = batches.copy()
    batches.clear()
    _both(spy, x, y, batch_size=4)
    assert batches == few
    assert max(few) == 4


def test_a_cut_goes_through_the_attacks_images():
    model, x, y = fitted()
    x, y = x[:6], y[:6].astype(np.int32)
    cut = loss_cut(model, x, y, EPSILON, points=13, seed=3)
    np.testing.assert_array_equal(cut.steps, np.arange(-4, 9) / 4)
    attack = SignAscent(EPSILON, EPSILON / 8, 20, Start.UNIFORM)

    def crafted(i):
        def loss_fn(images):
            logits = model(images, training=False)
            return tf.nn.sparse_softmax_cross_entropy_with_logits(y[i : i + 1], logits)

        return attack.craft(loss_fn, x[i : i + 1], (3, i)).numpy()

    adversarial = np.concatenate([crafted(i) for i in range(6)])
    assert (_losses(model, adversarial, y) > 2 * _losses(model, x, y)).any()
    for column, step in [(0, -1), (4, 0), (8, 1), (12, 2)]:
        # Twice the way may well be outside [0, 1].
        moved = x + step * (adversarial - x)
        expected = _losses(model, moved, y)
        np.testing.assert_allclose(cut.losses[:, column], expected, rtol=1e-4)


def test_each_image_is_told_of():
    model, x, y = fitted()
    told: list[int] = []
    _both(model, x[:7], y[:7], batch_size=4, progress=told.append)
    assert told == [1] * 14


@pytest.mark.parametrize(
    ("measure", "size", "points", "message"),
    [
        (loss_surface, 0.0, 3, "radius"),
        (loss_surface, float("inf"), 3, "radius"),
        (loss_surface, 0.1, 4, "odd"),
        (loss_surface, 0.1, 1, "odd"),
        (loss_cut, 0.0, 4, "epsilon"),
        (loss_cut, 0.1, 1, "points"),
        (loss_cut, 0.1, 6, "points"),
    ],
)
def test_wrong_numbers(measure, size, points, message):
    x, y = np.zeros((1, 2, 2, 1), np.float32), np.zeros(1, int)
    with pytest.raises(ValueError, match=message):
        measure(two_classes, x, y, size, points)


@pytest.mark.parametrize("measure", [loss_surface, loss_cut])
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((0, 2, 2, 1), np.float32), "no images"),
        (np.full((1, 2, 2, 1), 200, np.uint8), "divide by 255"),
    ],
)
def test_wrong_images(measure, x, message):
    with pytest.raises(ValueError, match=message):
        measure(two_classes, x, np.zeros(len(x), int), 0.1)
