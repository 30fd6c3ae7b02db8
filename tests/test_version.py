import runpy
from pathlib import Path

import setuptools
from packaging.version import Version

from advrush_tf.version import __version__

SETUP = Path(__file__).parent.parent / "setup.py"


def test_version_is_in_the_canonical_form():
    assert str(Version(__version__)) == __version__


def test_setup_installs_this_version(monkeypatch):
    given = {}
    monkeypatch.setattr(setuptools, "setup", lambda **words: given.update(words))
    monkeypatch.chdir(SETUP.parent)
    runpy.run_path(str(SETUP))
    assert given["version"] == __version__
    assert "advrush_tf.attacks" in given["packages"]
