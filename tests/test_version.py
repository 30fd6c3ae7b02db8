import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

from packaging.version import Version

from advrush_tf.version import __version__

SETUP = Path(__file__).parent.parent / "setup.py"


def test_version_is_in_the_canonical_form():
    assert str(Version(__version__)) == __version__


def test_setup_installs_this_version(monkeypatch):
    given = {}
    fake = SimpleNamespace(setup=given.update)
    monkeypatch.setitem(sys.modules, "setuptools", fake)
    runpy.run_path(str(SETUP))
    assert given["version"] == __version__
