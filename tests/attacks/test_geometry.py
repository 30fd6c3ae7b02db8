import copy
import dataclasses
import json
import pickle

import numpy as np
import pytest
import tensorflow as tf
from scipy.optimize import linprog, lsq_linear

from advrush_tf.attacks.geometry import (
    Norm,
    Radius,
    fused,
    is_inside,
    length,
    nearest,
    project,
    projected_step,
    scaled,
    steepest,
    unit,
    with_gradient,
)

RANDOM = np.random.default_rng(0)


def images(*values):
    """One image a row of values, of one channel in a line."""
    return tf.constant(np.reshape(values, (len(values), 1, -1, 1)), tf.float64)


@pytest.mark.parametrize(
    ("value", "number", "text"),
    [
        ("8/255", 8 / 255, "8/255"),
        ("8 / 255", 8 / 255, "8 / 255"),
        ("8.0/255", 8 / 255, "8.0/255"),
        (" 0.031 ", 0.031, "0.031"),
        ("1e-2", 0.01, "1e-2"),
        (0.1, 0.1, "0.1"),
        (8 / 255, 8 / 255, "0.03137254901960784"),
        (0, 0.0, "0"),
        (np.float32(0.5), 0.5, "0.5"),
        (Radius("8/255"), 8 / 255, "8/255"),
    ],
)
def test_a_radius_is_a_number_that_remembers_its_text(value, number, text):
    radius = Radius(value)
    assert (float(radius), str(radius), f"{radius}") == (number, text, text)
    assert (radius == number, hash(radius)) == (True, hash(number))
    assert json.loads(json.dumps({"epsilon": radius})) == {"epsilon": number}
    for same in (pickle.loads(pickle.dumps(radius)), copy.deepcopy(radius)):
        assert (type(same), same, str(same)) == (Radius, number, text)


def test_a_radius_computes_as_its_float():
    x = tf.constant([0.25, 0.5])
    np.testing.assert_array_equal(x - Radius("8/255"), x - 8 / 255)
    assert type(2 * Radius("8/255")) is float
    assert sorted([Radius("8/255"), Radius("0.01")]) == [0.01, 8 / 255]


@pytest.mark.parametrize("value", ["", "eight", "8/", "1/0", "8//255", "0.1,0.2", None])
def test_a_radius_that_is_no_number_is_refused(value):
    with pytest.raises(ValueError, match=f"such as 8/255, not '{value}'"):
        Radius(value)


@pytest.mark.parametrize(
    "value", ["nan", "-8/255", "inf", -0.1, float("nan"), float("inf"), "1e999"]
)
def test_a_radius_out_of_range_is_refused(value):
    with pytest.raises(ValueError, match=f"0 or more and finite, not {value}"):
        Radius(value)


def test_lengths_by_hand():
    delta = images([3.0, -4.0], [0.0, 0.0])
    np.testing.assert_allclose(length(Norm.LINF, delta), [4, 0])
    np.testing.assert_allclose(length(Norm.L2, delta), [5, 0])


def test_steepest_directions_by_hand():
    gradient = images([3.0, -4.0], [0.0, 0.0])
    np.testing.assert_allclose(steepest(Norm.LINF, gradient), images([1, -1], [0, 0]))
    np.testing.assert_allclose(steepest(Norm.L2, gradient), images([0.6, -0.8], [0, 0]))


@pytest.mark.parametrize("norm", Norm)
def test_no_direction_of_length_1_rises_more_than_the_steepest(norm):
    gradient = RANDOM.normal(size=(1, 4, 4, 3))
    best = np.sum(gradient * steepest(norm, tf.constant(gradient)))
    others = unit(norm, tf.constant(RANDOM.normal(size=(500, 4, 4, 3))))
    np.testing.assert_allclose(length(norm, others), np.ones(500))
    assert np.sum(gradient * others, (1, 2, 3)).max() < best


@pytest.mark.parametrize("scale", [1e-35, 1e-12, 1e30])
@pytest.mark.parametrize("norm", Norm)
def test_a_step_has_full_length_whatever_the_scale_of_the_gradient(norm, scale):
    gradient = RANDOM.normal(size=(3, 4, 4, 3))
    gradient[2] = 0
    small = tf.constant(scale * gradient, tf.float32)
    found = steepest(norm, small)
    np.testing.assert_allclose(found, steepest(norm, gradient), rtol=1e-5)
    np.testing.assert_allclose(length(norm, found), [1, 1, 0], rtol=1e-6)
    expected = scale * length(norm, tf.constant(gradient))
    np.testing.assert_allclose(length(norm, small), expected, rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_entries_that_are_not_finite_count_as_zero(bad):
    gradient, hand = images([3.0, bad, -4.0], [bad] * 3), images([3, 0, -4], [0] * 3)
    for norm in Norm:
        np.testing.assert_array_equal(steepest(norm, gradient), steepest(norm, hand))
        np.testing.assert_array_equal(unit(norm, gradient), unit(norm, hand))
    np.testing.assert_array_equal(scaled(gradient), images([0.75, 0, -1], [0] * 3))

    _, found = with_gradient(
        lambda x: tf.reduce_sum(x * gradient, [1, 2, 3]), tf.ones_like(gradient)
    )
    np.testing.assert_array_equal(found, hand)


def test_what_is_inside():
    x = np.array([0.5, 0.5, 0.95], np.float32)
    for norm, far in ((Norm.LINF, [0.1, -0.1, 0]), (Norm.L2, [0.06, -0.08, 0])):
        delta = np.array(far, np.float32)
        assert is_inside(norm, x + delta, x, 0.1)
        assert not is_inside(norm, x + 1.01 * delta, x, 0.1)
    for outside in (0.1, np.nan, np.inf):
        assert not is_inside(Norm.LINF, x + np.array([0, 0, outside]), x, 0.2)


def test_projections_by_hand():
    x = images([0.5, 0.5], [0.5, 0.5], [0.9, 0.5])
    far = images([0.8, 0.1], [0.6, 0.5], [1.9, 0.5])
    linf = project(Norm.LINF, far, x, 0.2)
    np.testing.assert_allclose(linf, images([0.7, 0.3], [0.6, 0.5], [1.0, 0.5]))
    l2 = project(Norm.L2, far, x, 0.25)
    # The first is 0.5 away, the second is inside, the third meets the box.
    np.testing.assert_allclose(l2, images([0.65, 0.3], [0.6, 0.5], [1.0, 0.5]))


@pytest.mark.parametrize("norm", Norm)
def test_projections_are_inside_and_stay_where_they_are(norm):
    x = tf.constant(RANDOM.random((50, 5, 5, 3)), tf.float32)
    far = x + tf.constant(RANDOM.normal(size=x.shape), tf.float32)
    inside = project(norm, far, x, 0.3)
    assert length(norm, inside - x).numpy().max() <= 0.3 + 1e-6
    assert inside.numpy().min() >= 0
    assert inside.numpy().max() <= 1
    if norm is Norm.LINF:
        np.testing.assert_array_equal(project(norm, inside, x, 0.3), inside)
    np.testing.assert_allclose(project(norm, inside, x, 0.3), inside, atol=1e-7)


def test_projected_steps_by_hand():
    x, gradient = images([0.5, 0.5], [0.9, 0.5]), images([3.0, -4.0], [8.0, 0.0])
    linf = projected_step(Norm.LINF, x, gradient, 0.3, x, 0.2)
    np.testing.assert_allclose(linf, images([0.7, 0.3], [1.0, 0.5]))
    l2 = projected_step(Norm.L2, x, gradient, 0.3, x, 0.2)
    np.testing.assert_allclose(l2, images([0.62, 0.34], [1.0, 0.5]))


def test_losses_with_their_gradient():
    x = images([0.5, 0.25], [1.0, 0.0])
    losses, gradient = with_gradient(lambda z: tf.reduce_sum(z**2, [1, 2, 3]), x)
    np.testing.assert_allclose(losses, [0.3125, 1.0])
    np.testing.assert_allclose(gradient, 2 * x)
    _, none = with_gradient(lambda z: tf.zeros(2), x)
    np.testing.assert_array_equal(none, 0 * x)


def test_an_unknown_norm_names_the_known_ones():
    with pytest.raises(ValueError, match="L1"):
        Norm("L1")


def steps(norm, x, w, b):
    return nearest(norm, tf.constant(x), tf.constant(w), tf.constant(b)).numpy()


def cases(size, count, seed=0):
    """Verdicts, some features on the border; weights, some 0; offsets within reach."""
    generator = np.random.default_rng(seed)
    x = np.clip(1.4 * generator.random((count, size)) - 0.2, 0, 1)
    w = generator.normal(size=(count, size))
    w[generator.random((count, size)) < 0.2] = 0
    side = np.where(np.arange(count) % 2, 1.0, -1.0)
    reach = np.sum(np.abs(w) * np.where(side[:, None] * w > 0, x, 1 - x), 1)
    value = side * reach * np.linspace(0.02, 0.98, count)
    return x, w, value - np.sum(w * x, 1)


def by_linear_programme(x, w, b):
    """The least t with |step| <= t, inside the box and on the hyperplane."""
    size = len(x)
    one, column = np.eye(size), np.ones((size, 1))
    found = linprog(
        np.append(np.zeros(size), 1),
        A_ub=np.block([[one, -column], [-one, -column]]),
        b_ub=np.zeros(2 * size),
        A_eq=[np.append(w, 0)],
        b_eq=[-(w @ x + b)],
        bounds=[*zip(-x, 1 - x, strict=True), (0, 1)],
    )
    assert found.success
    return found.x[-1]


def by_least_squares(x, w, b, weight=1e4):
    """The shortest step inside the box, with a heavy weight on the hyperplane."""
    matrix = np.vstack([np.eye(len(x)), weight * w])
    wanted = np.append(np.zeros(len(x)), -weight * (w @ x + b))
    found = lsq_linear(matrix, wanted, (-x, 1 - x), "bvls", tol=1e-14)
    assert found.success
    return found.x


def by_sorting(norm, x, w, b):
    """One point's step: features hit the border in the order of their times."""
    value = w @ x + b
    direction = -np.sign(value) * np.sign(w)
    used = np.flatnonzero(w)
    room = np.where(direction > 0, 1 - x, x)[used]
    gain = np.abs(w[used])
    rate = np.ones_like(gain) if norm is Norm.LINF else gain
    time, missing, slope = 0.0, abs(value), np.sum(gain * rate)
    for index in np.argsort(room / rate):
        last = room[index] / rate[index]
        if missing <= slope * (last - time):
            time += missing / slope
            break
        missing -= slope * (last - time)
        slope -= gain[index] * rate[index]
        time = last
    step = np.zeros_like(x)
    step[used] = direction[used] * np.minimum(time * rate, room)
    return step


@pytest.mark.parametrize("norm", Norm)
def test_against_general_solvers(norm):
    x, w, b = cases(size=8, count=30)
    found = steps(norm, x, w, b)
    moved = x + found
    assert moved.min() >= 0
    assert moved.max() <= 1
    np.testing.assert_allclose(np.sum(w * moved, 1) + b, 0, atol=1e-12)
    for point in range(len(x)):
        one = x[point], w[point], b[point]
        if norm is Norm.LINF:
            size = np.abs(found[point]).max()
            np.testing.assert_allclose(size, by_linear_programme(*one), atol=1e-9)
        else:
            np.testing.assert_allclose(found[point], by_least_squares(*one), atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 2e-5), ("float64", 1e-12)]
)
@pytest.mark.parametrize("norm", Norm)
def test_points_as_large_as_images(norm, dtype, tolerance):
    x, w, b = (array.astype(dtype) for array in cases(size=3072, count=12))
    found = steps(norm, x, w, b)
    exact = (array.astype("float64") for array in (x, w, b))
    expected = [by_sorting(norm, *one) for one in zip(*exact, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("norm", Norm)
def test_features_that_hit_the_border_one_after_the_other(norm):
    # Newton's method takes many iterations. Of 40 equal shares 39.96 are needed.
    series = 4.0 ** -np.arange(40)
    x, w = series[::-1].copy(), series
    found = steps(norm, x[None], w[None], np.array([-0.001 * (w @ x)]))
    np.testing.assert_allclose(found, [[*-x[:-1], -0.96]], rtol=1e-9)


@pytest.mark.parametrize("norm", Norm)
def test_out_of_reach(norm):
    x = np.array([[0.2, 0.7, 0.5, 0.0], [0.2, 0.7, 0.5, 0.0]])
    w = np.array([[1.0, -2.0, 0.0, 1.0], [1.0, -2.0, 0.0, 1.0]])
    # Below 0 and above 0 on the whole box, which then is left at no feature of weight.
    found = x + steps(norm, x, w, np.array([-9.0, 9.0]))
    np.testing.assert_allclose(found, [[1, 0, 0.5, 1], [0, 1, 0.5, 0]], atol=1e-12)


@pytest.mark.parametrize("norm", Norm)
def test_no_weights_and_points_on_the_hyperplane(norm):
    x, w = np.full((2, 3), 0.5), np.array([[0.0, 0.0, 0.0], [1.0, 1.0, -2.0]])
    np.testing.assert_array_equal(steps(norm, x, w, np.array([3.0, 0.0])), 0 * x)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("norm", Norm)
def test_the_scale_of_a_hyperplane_is_nothing(norm, scale):
    x, w, b = (array.astype("float32") for array in cases(size=20, count=4))
    scaled = steps(norm, x, w * np.float32(scale), b * np.float32(scale))
    np.testing.assert_allclose(scaled, steps(norm, x, w, b), atol=1e-5)


def test_weights_too_small_for_the_value():
    x, w = np.array([[0.5, 0.5]], "float32"), np.array([[2e-38, 0.0]], "float32")
    found = steps(Norm.L2, x, w, np.array([9e9], "float32"))
    np.testing.assert_array_equal(found, [[-0.5, 0.0]])


@pytest.mark.parametrize("norm", Norm)
def test_images(norm):
    x, w, b = cases(size=12, count=5)
    images = steps(norm, x.reshape(5, 2, 2, 3), w.reshape(5, 2, 2, 3), b)
    np.testing.assert_allclose(images.reshape(5, 12), steps(norm, x, w, b))


@dataclasses.dataclass(frozen=True)
class Line:
    slope: float
    traced: list = dataclasses.field(default_factory=list, compare=False)

    def at(self, state, offset):
        self.traced.append(state["x"].shape)
        return {"y": self.slope * state["x"] + offset}


def test_a_method_is_compiled_once_for_each_shape():
    line = Line(3.0)
    for x in ([1.0, 2.0], [4.0, 5.0], [6.0]):
        y = fused(line.at, {"x": tf.constant(x)}, tf.constant(1.0))["y"]
        np.testing.assert_allclose(y, 3 * np.array(x) + 1)
    assert line.traced == [(2,), (1,)]


def test_it_is_a_kernel_of_its_own_in_a_graph():
    graph = tf.function(lambda x: fused(Line(2.0).at, {"x": x}, x)["y"])
    x = tf.constant([1.0, 2.0])
    np.testing.assert_allclose(graph(x), [3, 6])
    calls = [
        node
        for node in graph.get_concrete_function(x).graph.as_graph_def().node
        if node.attr["_XlaMustCompile"].b
    ]
    assert len(calls) == 1
