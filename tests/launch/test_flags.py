"""The flags of every launcher: users' scripts read their names and defaults."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXPECTED = json.loads((ROOT / "testdata" / "flags.json").read_text("utf-8"))
# Each launcher defines its flags when it is imported; all run one after the other.
PROGRAM = """
import json, pathlib, runpy, sys
import advrush_tf
from absl import app, flags

found, known = {}, set(flags.FLAGS)
for path in sorted(pathlib.Path("launch").glob("*.py")):
    if path.stem == "console":
        continue
    runpy.run_path(str(path), run_name="launcher")
    own = {name: flags.FLAGS[name] for name in set(flags.FLAGS) - known}
    own = {name: flag for name, flag in own.items() if flag.name == name}
    found[path.stem] = {
        name: [flag.default, bool(flag.help)] for name, flag in sorted(own.items())
    }
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
    assert found[launcher] == {n: [v, True] for n, v in EXPECTED[launcher].items()}
