import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.attacks.base import BatchedClassifier, Outcome, is_right
from advrush_tf.attacks.series import CLEAN, ROBUST, Progress, run_series

X = np.linspace(0.1, 0.6, 6, dtype=np.float32).reshape(6, 1, 1, 1)
# The last image is brighter than the model allows for class 0.
Y = np.zeros(6, np.int64)


@pytest.fixture
def classifier():
    def model(images):
        shade = images[:, 0, 0, 0]
        return tf.stack([0.55 - shade, shade - 0.55], -1)

    return BatchedClassifier(model, (1, 1, 1), 4)


class Lift:
    """Says that it breaks every image that it makes this much brighter."""

    def __init__(self, by, honest=True):
        self.by, self.honest, self.seen = by, honest, []

    def outcomes(self, classifier, x, y, seed, indices=None):
        self.seen += list(indices)
        for row, image in enumerate(x):
            lifted = image + self.by
            broken = lifted.item() > 0.55
            yield Outcome(row, lifted if broken else image, broken or not self.honest)


def run(classifier, attacks, progress=None, **options):
    progress = progress or Progress(X, list(attacks))
    run_series(classifier, attacks, X, Y, 0, progress, **options)
    return progress


def test_each_attack_gets_the_survivors_of_those_before(classifier):
    attacks = {"first": Lift(0.1), "second": Lift(0.3)}
    progress = run(classifier, attacks)
    assert attacks["first"].seen == [0, 1, 2, 3, 4]
    assert attacks["second"].seen == [0, 1, 2, 3]
    expected = [ROBUST, ROBUST, 1, 1, 0, CLEAN]
    np.testing.assert_array_equal(progress.broken_by, expected)
    lifted = X.ravel() + np.array([0, 0, 0.3, 0.3, 0.1, 0])
    np.testing.assert_allclose(progress.images.ravel(), lifted, rtol=1e-6)
    assert progress.finished == 2
    assert progress.survived(0).tolist() == [True] * 5 + [False]
    assert progress.survived(1).tolist() == [True] * 4 + [False] * 2
    assert progress.survived(2).tolist() == [True] * 2 + [False] * 4


def test_what_an_attack_says_counts_only_if_the_model_is_wrong(classifier):
    attacks = {"liar": Lift(0.0, honest=False), "second": Lift(0.1)}
    progress = run(classifier, attacks)
    assert attacks["second"].seen == [0, 1, 2, 3, 4]
    assert progress.survived(1).sum() == 5
    assert progress.survived(2).sum() == 4


def test_an_interrupted_series_resumes(classifier, tmp_path):
    class StoppedError(Exception):
        pass

    def stop(name, total, outcomes):
        for number, outcome in enumerate(outcomes):
            if name == "second" and number == 2:
                raise StoppedError
            yield outcome

    whole = run(classifier, {"first": Lift(0.1), "second": Lift(0.3)})
    progress = Progress(X, ["first", "second"])
    with pytest.raises(StoppedError):
        run(classifier, {"first": Lift(0.1), "second": Lift(0.3)}, progress, watch=stop)
    progress.save(tmp_path / "progress.npz")
    again = Progress(X, ["first", "second"])
    again.restore(tmp_path / "progress.npz")
    attacks = {"first": Lift(0.1), "second": Lift(0.3)}
    run(classifier, attacks, again)
    assert attacks["first"].seen == []
    assert attacks["second"].seen == [2, 3]
    np.testing.assert_array_equal(again.images, whole.images)
    np.testing.assert_array_equal(again.broken_by, whole.broken_by)


def test_gradients_that_are_not_finite_are_counted_over_interruptions(
    classifier, tmp_path
):
    class Lost(Lift):
        def outcomes(self, classifier, *arguments):
            for outcome in super().outcomes(classifier, *arguments):
                classifier._bad_gradients.assign_add(1)
                yield outcome

    run(classifier, {"earlier": Lost(0.0)})
    progress = Progress(X, ["first", "second"])
    progress.bad_gradients = 3
    progress.save(tmp_path / "progress.npz")
    again = Progress(X, ["first", "second"])
    again.restore(tmp_path / "progress.npz")
    run(classifier, {"first": Lost(0.1), "second": Lift(0.3)}, again)
    assert again.bad_gradients == 3 + 5
    progress.take(slice(0, 6), again)
    assert progress.bad_gradients == 3 + 8


def test_a_progress_of_other_attacks_or_images_is_refused(tmp_path):
    path = tmp_path / "progress.npz"
    Progress(X, ["first"]).save(path)
    for other in (Progress(X, ["second"]), Progress(X[:5], ["first"])):
        with pytest.raises(ValueError, match="belongs to another evaluation"):
            other.restore(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    with pytest.raises(ValueError, match="is damaged"):
        Progress(X, ["first"]).restore(path)
    # A folder cannot be read, whoever asks.
    with pytest.raises(IsADirectoryError):
        Progress(X, ["first"]).restore(tmp_path)
    path.write_bytes(whole)
    kept = dict(np.load(path))
    other = str(kept["notes"]).replace('"finished": -1', '"finished": "-1"')
    for change in (
        *({"notes": np.asarray(notes)} for notes in ("{}", "[" * 10**5, "[1]", other)),
        *({name: kept[name].astype("S9")} for name in ("images", "broken_by", "done")),
    ):
        np.savez(path, **kept | change)
        with pytest.raises(ValueError, match="is damaged"):
            Progress(X, ["first"]).restore(path)


def test_attacks_get_the_indices_of_the_images(classifier):
    attacks = {"first": Lift(0.1), "second": Lift(0.3)}
    run(classifier, attacks, indices=np.arange(6) * 10 + 7)
    assert attacks["first"].seen == [7, 17, 27, 37, 47]
    assert attacks["second"].seen == [7, 17, 27, 37]


def test_a_progress_takes_over_what_was_done_to_some_rows(classifier):
    whole = run(classifier, {"first": Lift(0.1), "second": Lift(0.3)})
    together = Progress(X, ["first", "second"])
    for index, seconds in ((0, 5.0), (1, 3.0)):
        rows = slice(index, None, 2)
        share = Progress(X[rows], ["first", "second"])
        attacks = {"first": Lift(0.1), "second": Lift(0.3)}
        run_series(classifier, attacks, X[rows], Y[rows], 0, share)
        share.seconds = seconds
        together.take(rows, share)
    for name in ("images", "broken_by", "done"):
        np.testing.assert_array_equal(getattr(together, name), getattr(whole, name))
    assert (together.finished, together.seconds) == (2, 5.0)


def test_is_right_by_hand(classifier):
    right = is_right(classifier, X, np.array([0, 1, 0, 0, 0, 1]))
    assert right.tolist() == [True, False, True, True, True, True]


def test_logits_that_are_not_finite_are_wrong():
    classifier = BatchedClassifier(
        lambda x: tf.fill((x.shape[0], 2), float("nan")), (1, 1, 1), 4
    )
    assert not is_right(classifier, X, np.zeros(6)).any()


def test_for_other_models_the_first_attack_gets_all_images(classifier):
    attacks = {"first": Lift(0.1), "second": Lift(0.3)}
    run(classifier, attacks, all_images=True)
    assert attacks["first"].seen == [0, 1, 2, 3, 4, 5]
    assert attacks["second"].seen == [0, 1, 2, 3]


@pytest.mark.parametrize("claimed", [False, True])
def test_robust_images_are_the_given_ones_unless_for_other_models(classifier, claimed):
    class Darken(Lift):
        def outcomes(self, classifier, x, y, seed, indices=None):
            for row, image in enumerate(x):
                yield Outcome(row, image - self.by, claimed)

    attacks = {"first": Darken(0.05), "second": Darken(0.09)}
    progress = run(classifier, attacks)
    np.testing.assert_array_equal(progress.images[:5], X[:5])
    progress = run(classifier, attacks, all_images=True)
    last = 0.09 if claimed else 0.05
    np.testing.assert_allclose(progress.images[:5], X[:5] - last, rtol=1e-6)
