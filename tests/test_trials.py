import numpy as np
import pytest
from attacked import fitted

from advrush_tf.attacks import trials
from advrush_tf.attacks.apgd import APGD
from advrush_tf.attacks.square import Square
from advrush_tf.attacks.trials import Trial
from advrush_tf.attacks.victim import Victim

ATTACKS = {
    # Several runs on an image, of which one counts.
    "apgd-t": APGD(epsilon=0.06, loss="targeted_dlr", iterations=5),
    "square": Square(epsilon=0.25, queries=60),
    "apgd-ce": APGD(epsilon=0.25, iterations=5),
}


class KilledError(Exception):
    pass


@pytest.fixture(scope="module")
def victim():
    return Victim(fitted()[0], (6, 6, 1), 8)


def make(victim, path):
    _, x, y = fitted()
    return Trial(victim, ATTACKS, x, y, 0, path)


def test_a_trial_interrupted_at_any_moment_ends_as_one_that_was_not(
    victim, tmp_path, monkeypatch
):
    whole = make(victim, tmp_path / "whole.npz").run()
    assert set(whole.broken_by) >= {0, 1, 2}
    assert whole.seconds > 0
    monkeypatch.setattr(trials, "_SAVE_SECONDS", 0.0)
    path, saves = tmp_path / "parts.npz", []
    save = trials.Ledger.save

    def killed_after_some(ledger, path):
        save(ledger, path)
        saves.append(ledger.done.sum())
        if len(saves) % 25 == 0:
            raise KilledError

    monkeypatch.setattr(trials.Ledger, "save", killed_after_some)
    for _ in range(20):
        try:
            parts = make(victim, path).run()
            break
        except KilledError:
            continue
    assert len(saves) > 50
    np.testing.assert_array_equal(parts.broken_by, whole.broken_by)
    np.testing.assert_allclose(parts.images, whole.images, atol=1e-6)
    assert parts.finished == 3
    # A finished one is not run again.
    before = path.stat().st_mtime_ns
    make(victim, path).run()
    assert path.stat().st_mtime_ns == before


def test_progress_is_shown(victim, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    make(victim, tmp_path / "shown.npz").run()
    shown = capsys.readouterr().err
    for words in ("apgd-ce", "square", "broken=", "image"):
        assert words in shown
