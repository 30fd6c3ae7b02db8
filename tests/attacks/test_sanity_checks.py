import numpy as np
import pytest

from advrush_tf.attacks import sanity_checks as checks
from advrush_tf.attacks.sanity_checks import Code


def code_of(finding):
    return finding and finding.code


def test_random_model():
    passes = np.array([[[3.0, 0.0], [1.0, 2.0]]] * 3)
    assert checks.random_model(passes) is None
    # Rounding of a kernel is not randomness.
    passes[1, 0, 0] += 1e-4
    assert checks.random_model(passes) is None
    assert checks.random_model(np.full((2, 3, 4), np.nan)) is None
    passes[1, 1] = [2.0, 1.5]
    finding = checks.random_model(passes)
    assert finding.code is Code.RANDOM_MODEL
    # 2 - 1 of 2, and the second of two predictions.
    assert "3 passes" in finding.sentence and "up to 0.5 of" in finding.sentence
    assert "1 of 2 predictions" in finding.sentence


@pytest.mark.parametrize(
    ("logits", "found_one"),
    [
        ([[0.25, 0.75], [1.0, 0.0]], True),
        ([[0.25, 0.754], [1.0, 0.0]], True),  # of a softmax in half precision
        ([[0.25, 0.75], [1.1, -0.1]], False),
        ([[0.25, 0.75], [1.0, 0.5]], False),
        ([[0.05, 0.75], [1.0, 0.5]] * 8, True),  # of a sigmoid, sure of an answer
        ([[0.05, 0.75], [1.0, 0.5]] * 7, False),  # by chance, perhaps
        ([[-0.1, -2.4]], False),  # logarithms of probabilities will do
    ],
)
def test_probabilities(logits, found_one):
    found = checks.probabilities(np.array(logits))
    assert code_of(found) is (Code.PROBABILITIES if found_one else None)


def test_zero_gradients_of_more_than_a_tenth():
    steps = np.zeros((20, 1, 2, 1))
    steps[2:, 0, 0] = -1
    assert checks.zero_gradients(steps) is None
    steps[2] = 0
    finding = checks.zero_gradients(steps)
    assert finding.code is Code.ZERO_GRADIENTS
    assert "could follow at 3 of 20" in finding.sentence


def test_gradients_that_are_not_finite():
    gradients = np.ones((4, 1, 2, 1))
    assert checks.not_finite_gradients(gradients) is None
    gradients[1, 0, 0], gradients[3, 0, 1] = np.nan, -np.inf
    finding = checks.not_finite_gradients(gradients)
    assert finding.code is Code.NOT_FINITE
    assert "at 2 of 4 images" in finding.sentence


def test_probe_wins():
    robust = np.array([True, False, True, True, False])
    assert checks.probe_wins(robust, ~robust) is None
    finding = checks.probe_wins(robust, np.array([True, True, True, False, False]))
    assert finding.code is Code.PROBE_WINS
    assert "breaks 2 that" in finding.sentence


def test_black_box_wins():
    broken = {
        "apgd-ce": np.arange(1000) < 500,
        "fab-t": np.arange(1000) < 600,
        "square": np.arange(1000) < 602,
    }
    # Two of a thousand more are not many.
    assert checks.black_box_wins(broken, {"square", "transfer"}) is None
    broken["transfer"] = np.arange(1000) >= 999
    finding = checks.black_box_wins(broken, {"square", "transfer"})
    assert finding.code is Code.BLACK_BOX_WINS
    assert "3 of 1000" in finding.sentence
    only = {"square": broken["square"]}
    assert checks.black_box_wins(only, {"square"}) is None
    assert checks.black_box_wins(broken, set()) is None
    # Of few images, two are too few to tell.
    few = {"apgd-ce": np.zeros(40, bool), "square": np.arange(40) < 2}
    assert checks.black_box_wins(few, {"square"}) is None


def test_not_finite():
    logits = np.ones((4, 3))
    assert checks.not_finite(logits) is None
    logits[1, 0], logits[2, 1] = np.nan, np.inf
    finding = checks.not_finite(logits)
    assert finding.code is Code.NOT_FINITE
    assert "for 2 of 4 images;" in finding.sentence
    assert "4 images under pgd20;" in checks.not_finite(logits, "pgd20").sentence
    assert checks.probabilities(logits) is None


def test_rising_curve():
    right = [np.arange(10) < count for count in (9, 5, 5, 2)]
    epsilons = [0.0, 0.1, 0.2, 0.3]
    assert checks.rising_curve("pgd20", epsilons, right) is None
    finding = checks.rising_curve("pgd20", epsilons[:3], [right[0], right[3], right[1]])
    assert finding.code is Code.ACCURACY_OVER_EPSILON
    assert "under pgd20 rises" in finding.sentence
    assert "20% at 0.1, 50% at 0.2" in finding.sentence


@pytest.mark.parametrize(
    ("accuracies", "fault"),
    [
        ([0.9, 0.5, 0.1, 0.0], None),
        ([0.0, 0.0, 0.04, 0.03], None),
        ([0.9, 0.5, 0.1, 0.06], "is not zero even at the largest epsilon"),
        ([0.9, 0.2, 0.3, 0.0], "rises with epsilon"),
        ([0.9, 0.9, 0.9, 0.0], None),
    ],
)
def test_accuracy_over_epsilon(accuracies, fault):
    finding = checks.accuracy_over_epsilon([0.05, 0.1, 0.2, 0.5], accuracies)
    if fault is None:
        assert finding is None
    else:
        assert finding.code is Code.ACCURACY_OVER_EPSILON
        assert fault in finding.sentence and "90% at 0.05, " in finding.sentence


@pytest.mark.parametrize(
    ("one_step", "many_steps", "found_one"),
    [
        ([1.0, 2.0, -3.0, 6.0], [1.0, 2.0, -1.0, 6.0], False),
        ([-9.0, -9.0, -9.0, -9.0], [-0.1, -0.1, -0.1, -0.1], False),
        ([2.0, 4.0, 6.0, 7.999], [2.0, 4.0, 6.0, 8.0], False),
        ([-0.1, 2.0, 3.0, 4.0], [0.1, 1.0, 3.0, 4.0], True),  # one more is right
        ([1.0, 2.0, 3.0, 2.0], [1.0, 2.0, 3.0, 4.0], True),  # a quarter, of four
        # More than before the attack is as much.
        ([9.0, 4.0, 6.0, 8.0], [9.0, 99.0, 6.0, 8.0], False),
    ],
)
def test_steps_do_not_help(one_step, many_steps, found_one):
    clean = np.array([2.0, 4.0, 6.0, 8.0])
    found = checks.steps_do_not_help(clean, np.array(one_step), np.array(many_steps))
    assert code_of(found) is (Code.STEPS_DO_NOT_HELP if found_one else None)


def test_steps_that_do_not_help_in_numbers():
    found = checks.steps_do_not_help(
        np.full(4, 2.0), np.array([-1, -1, 1, 1]), np.ones(4)
    )
    assert "leaves 50% of 4 images right and 25% of their margins" in found.sentence
    assert "many steps leave 100% and 50%" in found.sentence


def test_images_outside_box():
    assert checks.images_outside_box(0.0, 1.0) is None
    for low, high in ((-0.1, 1.0), (0.0, 255.0), (float("nan"), float("nan"))):
        found = checks.images_outside_box(low, high)
        assert found.code is Code.IMAGES_OUTSIDE_BOX
    assert "from 0 to 255" in checks.images_outside_box(0.0, 255.0).sentence


def test_few_classes():
    assert checks.few_classes(4) is None
    assert "the model has 3" in checks.few_classes(3).sentence


def test_few_images():
    # Wilson's half width of a half is z / (2 sqrt(n + z^2)), z = 1.96: for 0.03,
    # n = z^2 / 0.0036 - z^2 = 1063.2.
    assert checks.few_images(0.5, 1064) is None
    finding = checks.few_images(0.5, 100)
    assert finding.code is Code.FEW_IMAGES
    assert "50.0% on 100" in finding.sentence and "9.6 percentage" in finding.sentence
    assert "1064 images" in finding.sentence
    # Of none or all, z^2 / (2 (n + z^2)): 60.2.
    assert checks.few_images(0.0, 61) is None
    for accuracy in (0.0, 1.0):
        assert "; 61 images" in checks.few_images(accuracy, 60).sentence


def test_results_are_checked():
    robust = np.arange(2000) % 2 == 0
    broken = {"apgd-ce": ~robust, "square": ~robust}
    assert checks.check_results(robust, broken, {"square"}, 4, targeted_dlr=True) == []
    assert checks.check_results(robust, broken, {"square"}, 3, targeted_dlr=False) == []
    few, wins = robust[:10], {"apgd-ce": robust[:10] & False, "square": ~robust[:10]}
    found = checks.check_results(few, wins, {"square"}, 3, targeted_dlr=True)
    expected = [Code.BLACK_BOX_WINS, Code.FEW_CLASSES, Code.FEW_IMAGES]
    assert [finding.code for finding in found] == expected


def test_chance():
    y = np.arange(40) % 4
    assert checks.chance(y, y, 4) is None
    assert checks.chance(np.where(y < 2, y, 0), y, 4) is None
    # 12 of 40: the interval from 18 to 45 % holds a quarter.
    finding = checks.chance(np.where(np.arange(40) < 12, y, (y + 1) % 4), y, 4)
    assert finding.code is Code.CHANCE
    assert "right about 12 of 40 images" in finding.sentence
    assert "1 in 4" in finding.sentence
    assert "the class 2" in checks.chance(np.full(40, 2), y, 4).sentence
    # Nor do few images.
    assert checks.chance(y[:9], (y[:9] + 1) % 4, 4) is None
    # Of images of one class, one answer says nothing.
    assert checks.chance(np.ones(40), np.ones(40), 4) is None


def test_other_range():
    assert checks.other_range({"[0, 1]": 50, "[0, 255]": 55, "[-1, 1]": 40}, 64) is None
    finding = checks.other_range({"[0, 1]": 30, "[0, 255]": 10, "[-1, 1]": 60}, 64)
    assert finding.code is Code.OTHER_RANGE
    assert "images in [-1, 1]: of 64 images in [0, 1] it is right about 30" in (
        finding.sentence
    )


def test_missing_classes():
    names = [f"class {number}" for number in range(14)]
    assert checks.missing_classes(np.arange(14), names) is None
    finding = checks.missing_classes(np.array([0, 2, 2]), names[:4], "held-out images")
    assert finding.code is Code.MISSING_CLASSES
    assert "Among the 3 held-out images is none of 2 of 4 classes" in finding.sentence
    assert "(class 1, class 3)" in finding.sentence
    assert "class 10, ...)" in checks.missing_classes(np.zeros(1), names).sentence
