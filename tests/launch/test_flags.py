"""The flags of every launcher: users' scripts read their names and defaults."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXPECTED = json.loads((ROOT / "testdata" / "flags.json").read_text("utf-8"))
# Each launcher defines its flags when it is imported; all run one after the other.
PROGRAM = """
import contextlib, io, json, pathlib, runpy, sys
import advrush_tf
from absl import app, flags

found, known = {}, set(flags.FLAGS)
for path in sorted(pathlib.Path("launch").glob("*.py")):
    if path.stem == "console":
        continue
    sys.argv, shown, code = [str(path), "--help"], io.StringIO(), None
    try:
        with contextlib.redirect_stdout(shown):
            runpy.run_path(str(path), run_name="__main__")
    except SystemExit as end:
        code = end.code
    own = {name: flags.FLAGS[name] for name in set(flags.FLAGS) - known}
    own = {name: flag for name, flag in own.items() if flag.name == name}
    defaults = {
        name: [flag.default, bool(flag.help)] for name, flag in sorted(own.items())
    }
    found[path.stem] = {"flags": defaults, "help": shown.getvalue(), "code": code}
    for name in own:
        delattr(flags.FLAGS, name)
print("\\n" + json.dumps(found))
"""


@pytest.fixture(scope="module")
def found():
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'launch'}"},
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(result.stdout.splitlines()[-1])


def test_every_launcher_is_in_the_table(found):
    assert list(found) == list(EXPECTED)


@pytest.mark.parametrize("launcher", EXPECTED)
def test_names_defaults_and_that_there_is_help(launcher, found):
    expected = {n: [v, True] for n, v in EXPECTED[launcher].items()}
    assert found[launcher]["flags"] == expected


@pytest.mark.parametrize("launcher", EXPECTED)
def test_help_lists_all_own_flags_and_only_those(launcher, found):
    listed = re.findall(r"^  --(?:\[no\])?(\w+)", found[launcher]["help"], re.MULTILINE)
    assert sorted(listed) == sorted(EXPECTED[launcher])
    assert found[launcher]["code"] == 0


def test_help_has_headings(found):
    lines = found["search"]["help"].splitlines()
    heading = lines.index("Curvature penalty")
    assert lines[heading - 1] == ""
    assert lines[heading + 1 : heading + 3] == [
        "  --gamma=0.01",
        "      Weight of the curvature penalty; 0 is first-order DARTS.",
    ]
    assert "Search: Curvature penalty" in found["study"]["help"].splitlines()
