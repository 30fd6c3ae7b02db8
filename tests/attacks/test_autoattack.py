import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.attacks.apgd import APGD
from advrush_tf.attacks.autoattack import AutoAttack, Member, make_members
from advrush_tf.attacks.fab import FAB
from advrush_tf.attacks.geometry import Norm
from advrush_tf.attacks.square import Square
from support.attacked import distances, fitted, grey, linear


def test_the_published_series():
    standard = make_members("Linf", 0.03)
    assert list(standard) == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert standard["apgd-ce"] == APGD("Linf", 0.03, "ce", iterations=100)
    assert standard["apgd-t"].runs(10) == 9
    assert standard["fab-t"] == FAB("Linf", 0.03, targeted=True, targets=9)
    assert standard["square"] == Square("Linf", 0.03, queries=5000)
    plus = make_members("L2", 0.5, "plus")
    assert list(plus) == ["apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"]
    assert [plus[name].runs(10) for name in plus] == [5, 5, 5, 1, 9, 9]
    rand = make_members("Linf", 0.03, "rand")
    assert list(rand) == ["apgd-ce", "apgd-dlr"]
    assert all(attack.eot == 20 for attack in rand.values())


def test_wrong_names_name_the_right_ones():
    with pytest.raises(ValueError, match="one of 'standard', 'plus', 'rand', not 'b"):
        make_members("Linf", 0.03, "best")
    with pytest.raises(ValueError, match="norm must be one of 'Linf', 'L2', not 'L1'"):
        make_members("L1", 0.03)
    with pytest.raises(ValueError, match=r"member must be one of .*'square', not 'pgd"):
        make_members("Linf", 0.03, members=["pgd"])
    with pytest.raises(ValueError, match="each attack once"):
        make_members("Linf", 0.03, members=["square", "square"])
    with pytest.raises(ValueError, match="seed must be 0 or more"):
        AutoAttack(lambda x: x, seed=-1)
    with pytest.raises(ValueError, match="L2 has no usual epsilon: give one"):
        AutoAttack(lambda x: x, norm="L2")
    assert AutoAttack(lambda x: x).members["square"].epsilon == 8 / 255


SHORT = ["apgd-ce", "apgd-t"]


@pytest.mark.parametrize(("norm", "classes"), [("Linf", 2), ("L2", 3), ("Linf", 6)])
def test_finds_what_is_there_on_a_linear_model(norm, classes):
    model, weights = linear(classes)
    x, y = grey(model)
    # Some images the model is wrong about before any attack.
    y = np.where(np.arange(len(y)) < 4, (y + 1) % classes, y)
    away = distances(weights, x, y, Norm(norm))
    epsilon = float(np.median(away))
    images, verdicts = AutoAttack(model, norm, epsilon, members=SHORT).run(x, y)
    robust = away > epsilon
    np.testing.assert_array_equal(verdicts.robust, robust)
    wrong = np.argmax(model(tf.constant(images)), -1) != y
    np.testing.assert_array_equal(wrong, ~robust)
    np.testing.assert_array_equal(images[robust], x[robust])
    assert verdicts.broken_by[:4] == ("clean",) * 4
    assert {verdicts.broken_by[row] for row in np.flatnonzero(robust)} == {None}
    sizes = np.linalg.norm(
        (images - x).reshape(len(x), -1), np.inf if norm == "Linf" else 2, axis=1
    )
    assert sizes.max() <= epsilon + 1e-6
    assert list(verdicts.accuracy_after) == ["clean", *SHORT]
    assert verdicts.accuracy_after["clean"] == pytest.approx(26 / 30)
    assert verdicts.accuracy_after["apgd-t"] == pytest.approx(robust.mean())


def test_one_image_all_wrong_and_none_broken():
    model, _ = linear()
    x, y = grey(model)
    attack = AutoAttack(model, epsilon=1e-6, members=SHORT)
    assert attack.run(x[:1], y[:1]).verdicts.robust.tolist() == [True]
    assert attack.run(x, y).verdicts.robust.all()
    wrong = attack.run(x, (y + 1) % 3)
    assert set(wrong.verdicts.broken_by) == {"clean"}
    assert set(wrong.verdicts.accuracy_after.values()) == {0.0}
    np.testing.assert_array_equal(wrong.images, x)


def test_a_keras_model_and_every_member():
    model, x, y = fitted()
    members = list(Member)
    attack = AutoAttack(model, epsilon=0.12, members=members, batch_size=16)
    # Fewer steps each: this is about all working together.
    attack.members = {
        name: type(member)(**(vars(member) | _SHORTER[type(member)]))
        for name, member in attack.members.items()
    }
    verdicts = attack.run(x, y).verdicts
    accuracies = list(verdicts.accuracy_after.values())
    assert accuracies == sorted(accuracies, reverse=True)
    assert 0 < accuracies[-1] < accuracies[0]


_SHORTER = {APGD: {"iterations": 5}, FAB: {"iterations": 5}, Square: {"queries": 50}}


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.full((2, 4, 4, 3), 2.0), [0, 1], "must be in"),
        (np.zeros((2, 4, 4, 3), np.uint8), [0, 1], "must be floats"),
        (np.zeros((2, 4, 4, 3)), [0], "2 images need as many labels"),
        (np.zeros((2, 48)), [0, 1], "must have the shape"),
        (np.zeros((0, 4, 4, 3)), [], "no images"),
        (np.zeros((2, 4, 4, 3)), [0, 3], "from 0 to 2"),
        (np.zeros((2, 4, 4, 3)), [0, 0.5], "from 0 to 2"),
    ],
)
def test_wrong_data_is_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        AutoAttack(linear()[0]).run(x, y)


@pytest.mark.parametrize("member", ["apgd-ce", "apgd-t", "fab-t", "square"])
def test_a_tie_that_is_a_wrong_answer_is_found(member):
    def model(images):
        # Both logits of bright images are 0, which is class 0.
        dark = tf.nn.relu(0.5 - tf.reduce_mean(images, [1, 2, 3]))
        return tf.stack([tf.zeros_like(dark), dark], -1)

    x = np.full((2, 2, 2, 1), 0.49, np.float32)
    x[1] = 0.4
    attack = AutoAttack(model, epsilon=0.03, members=[member])
    if member == "square":
        attack.members = {member: Square(epsilon=0.03, queries=50)}
    images, verdicts = attack.run(x, np.array([1, 1]))
    assert verdicts.robust.tolist() == [False, True]
    np.testing.assert_array_equal(model(tf.constant(images[:1])), [[0.0, 0.0]])


def test_verbose_shows_each_attack(capsys):
    model, _ = linear()
    x, y = grey(model, 8)
    attack = AutoAttack(model, epsilon="8 / 255", members=SHORT)
    attack.run(x, y)
    assert not capsys.readouterr().out
    found = attack.run(x, y, verbose=True)
    shown = capsys.readouterr().out
    left = [8, int(8 * found.verdicts.accuracy_after["apgd-ce"])]
    for name, images in zip(SHORT, left, strict=True):
        assert f"{name} on {images} images" in shown
    assert "8/8" in shown
