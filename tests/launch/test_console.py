import runpy
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from support.processes import ROOT

# What C++ code writes goes to the descriptor, as os.write does.
PROGRAM = """
import os, sys
import console

print("before", file=sys.stderr)
with console.held_back():
    os.write(2, b"held\\n")
    print("held too", file=sys.stderr)
    {last}
os.write(2, b"after\\n")
"""


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        ("pass", ["before", "after"]),
        ("sys.exit('failed')", ["before", "held", "held too", "failed"]),
    ],
)
def test_standard_error_is_held_back_and_shown_where_the_body_fails(last, expected):
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(last=last)],
        cwd=ROOT / "launch",
        capture_output=True,
        text=True,
    )
    assert result.stderr.splitlines() == expected


STARTING = """
import os, signal
import console

# Shells make what they start in the background ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
with console.starting():
    os.write(2, b"held\\n")
    {last}
print(os.environ["MPLBACKEND"])
"""


@pytest.mark.parametrize(
    ("last", "code", "lines"),
    [
        ("pass", 0, []),
        (
            f"os.kill(os.getpid(), {signal.SIGINT:d})",
            130,
            ["interrupted: nothing was run yet."],
        ),
    ],
)
def test_an_interruption_while_a_launcher_starts_is_one_line(last, code, lines):
    result = subprocess.run(
        [sys.executable, "-c", STARTING.format(last=last)],
        cwd=ROOT / "launch",
        env={"MPLBACKEND": "foo"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == code
    assert result.stderr.splitlines() == lines
    assert result.stdout == ("" if code else "agg\n")


def test_an_installed_program_runs_the_launcher_of_its_name(monkeypatch):
    console = runpy.run_path(str(ROOT / "launch" / "console.py"))
    ran = []
    launcher = SimpleNamespace(main="main", run=lambda *given: ran.append(given))
    monkeypatch.setitem(sys.modules, "search", launcher)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "argv", ["/usr/bin/advrush-search", "--epochs=1"])
    console["program"]()
    assert ran == [("main", console["held_back"])]
    assert sys.path == [str(ROOT / "launch")]


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("KERAS_BACKEND", "jax", "KERAS_BACKEND is 'jax'; unset KERAS_BACKEND"),
        ("TF_USE_LEGACY_KERAS", "1", "asks TensorFlow for Keras 2; unset"),
    ],
)
def test_an_environment_for_another_keras_is_refused_in_one_line(
    variable, value, words
):
    result = subprocess.run(
        [sys.executable, "launch/search.py", "--help"],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), variable: value},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: advrush_tf needs Keras") and words in line
