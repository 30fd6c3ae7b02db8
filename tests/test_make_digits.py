import re
import runpy
import sys
from pathlib import Path

import pytest

TESTDATA = Path(__file__).resolve().parent.parent / "testdata"


def test_script_makes_the_files_that_are_kept(tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.setattr(sys, "argv", ["make_digits.py", "--output", str(tmp_path)])
    runpy.run_path(str(TESTDATA / "make_digits.py"), run_name="__main__")

    def contents(folder):
        files = (path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}

    made, kept = contents(tmp_path / "digits"), contents(TESTDATA / "digits")
    assert made.keys() == kept.keys()
    assert [name for name in made if made[name] != kept[name]] == []


def test_files_hold_no_absolute_path():
    for path in (TESTDATA / "digits").rglob("*.json"):
        assert not re.search(r"[\"\s](/|[A-Za-z]:\\)", path.read_text("utf-8"))
