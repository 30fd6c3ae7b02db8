"""The flags of every launcher: users' scripts read their names and defaults."""

import json
import re

import pytest

from support.processes import ROOT, run_in_a_process

EXPECTED = json.loads((ROOT / "testdata" / "flags.json").read_text("utf-8"))
# Each launcher defines its flags when it is imported; all run one after the other.
PROGRAM = """
import contextlib, io, json, os, pathlib, runpy, sys
from absl import app, flags

os.chdir(root)
sys.path.insert(0, "launch")
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
result.write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    result = tmp_path_factory.mktemp("flags") / "found.json"
    run_in_a_process(PROGRAM, root=ROOT, result=result)
    return json.loads(result.read_text())


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
