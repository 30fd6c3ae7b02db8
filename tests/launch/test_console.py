import subprocess
import sys

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
