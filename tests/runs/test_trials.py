import threading

import numpy as np
import pytest

from advrush_tf.attacks.apgd import APGD
from advrush_tf.attacks.base import BatchedClassifier, StoppedError
from advrush_tf.attacks.square import Square
from advrush_tf.runs import trials
from advrush_tf.runs.trials import AttackJob
from support.attacked import Endless, fitted

ATTACKS = {
    # Several runs on an image, of which one counts.
    "apgd-t": APGD(epsilon=0.06, loss="targeted_dlr", iterations=5),
    "square": Square(epsilon=0.25, queries=60),
    "apgd-ce": APGD(epsilon=0.25, iterations=5),
}


class KilledError(Exception):
    pass


@pytest.fixture(scope="module")
def classifier():
    return BatchedClassifier(fitted()[0], (6, 6, 1), 8)


def make(classifier, path, **options):
    _, x, y = fitted()
    return AttackJob(classifier, ATTACKS, x, y, 0, path, **options)


def test_a_job_interrupted_at_any_moment_ends_as_one_that_was_not(
    classifier, tmp_path, monkeypatch
):
    whole = make(classifier, tmp_path / "whole.npz").run()
    assert set(whole.broken_by) >= {0, 1, 2}
    assert whole.seconds > 0
    monkeypatch.setattr(trials, "_SAVE_SECONDS", 0.0)
    path, saves = tmp_path / "parts.npz", []
    save = trials.Progress.save

    def killed_after_some(progress, path):
        save(progress, path)
        saves.append(progress.done.sum())
        if len(saves) % 25 == 0:
            raise KilledError

    monkeypatch.setattr(trials.Progress, "save", killed_after_some)
    for _ in range(20):
        try:
            parts = make(classifier, path).run()
            break
        except KilledError:
            continue
    assert len(saves) > 50
    np.testing.assert_array_equal(parts.broken_by, whole.broken_by)
    np.testing.assert_allclose(parts.images, whole.images, atol=1e-6)
    assert parts.finished == 3
    # A finished one is not run again.
    before = path.stat().st_mtime_ns
    make(classifier, path).run()
    assert path.stat().st_mtime_ns == before


def test_progress_is_shown(classifier, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    make(classifier, tmp_path / "shown.npz").run()
    shown = capsys.readouterr().err
    for words in ("apgd-ce", "square", "broken=", "image"):
        assert words in shown
    assert "shard" not in shown


def test_what_becomes_of_an_image_does_not_depend_on_its_shard(
    classifier, tmp_path, monkeypatch, capsys
):
    whole = make(classifier, tmp_path / "whole.npz").run()
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    for index in range(2):
        shard = make(classifier, tmp_path / f"{index}.npz", shard=(index, 2)).run()
        np.testing.assert_array_equal(shard.broken_by, whole.broken_by[index::2])
        np.testing.assert_allclose(shard.images, whole.images[index::2], atol=1e-6)
        # One bar shows all shards.
        assert ("square, shard 1 of 2" in capsys.readouterr().err) == (index == 0)


def test_more_shards_than_images_leave_some_empty(classifier, tmp_path):
    shard = make(classifier, tmp_path / "empty.npz", shard=(40, 41)).run()
    assert (shard.finished, len(shard.images)) == (3, 0)


def test_a_job_of_another_evaluation_is_not_resumed(classifier, tmp_path):
    path = tmp_path / "job.npz"
    empty = {"shard": (40, 41)}
    make(classifier, path, evaluation={"seed": 1}, **empty).run()
    make(classifier, path, evaluation={"seed": 1}, **empty)
    with pytest.raises(ValueError, match="belongs to another evaluation"):
        make(classifier, path, evaluation={"seed": 2}, **empty)
    with pytest.raises(ValueError, match="belongs to another evaluation"):
        make(classifier, path, evaluation={"seed": 1}, shard=(41, 42))


def test_a_stopped_job_ends_amid_its_steps(tmp_path):
    model, x, y = fitted()
    path, classifier = tmp_path / "job.npz", BatchedClassifier(model, (6, 6, 1), 8)
    job = AttackJob(classifier, {"endless": Endless()}, x, y, 0, path)
    threading.Timer(1.0, job.stop).start()
    with pytest.raises(StoppedError):
        job.run()
    assert path.exists()
