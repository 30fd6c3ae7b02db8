import runpy
from pathlib import Path

import setuptools
from packaging.version import Version

import advrush_tf
from advrush_tf.version import __version__

SETUP = Path(__file__).parent.parent / "setup.py"


def test_version_is_in_the_canonical_form():
    assert str(Version(__version__)) == __version__


def test_setup_installs_this_version(monkeypatch):
    given = {}
    monkeypatch.setattr(setuptools, "setup", lambda **words: given.update(words))
    monkeypatch.chdir(SETUP.parent)
    runpy.run_path(str(SETUP))
    citation = (SETUP.parent / "CITATION.cff").read_text("utf-8")
    assert f"\nversion: {__version__}\n" in citation
    assert given["version"] == __version__ == advrush_tf.__version__
    assert "advrush_tf.attacks" in given["packages"]
    for package, patterns in given["package_data"].items():
        folder = SETUP.parent / package.replace(".", "/")
        assert all(any(folder.glob(pattern)) for pattern in patterns)
    launchers = {path.stem for path in SETUP.parent.glob("launch/*.py")} - {"console"}
    scripts = given["entry_points"]["console_scripts"]
    programs = {script.split(" = ")[0] for script in scripts}
    assert programs == {f"advrush-{launcher}" for launcher in launchers}
