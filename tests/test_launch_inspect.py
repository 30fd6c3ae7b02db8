import subprocess
import sys

import pytest
from processes import ROOT, assert_is_one_error, launch


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--no_such_flag=1"], "no_such_flag"),
        ([], "Nothing to inspect"),
        (["--model=none.keras"], "no model file none.keras"),
        (["--run=launch", "--report=none.html"], "launch"),
        (["--model=launch"], "launch"),
    ],
)
def test_bad_input_is_one_line_and_code_2(arguments, words, tmp_path):
    result = launch("inspect", "--dataset=digits", *arguments, f"--workdir={tmp_path}")
    assert_is_one_error(result, words)


def test_beside_the_launchers_python_still_finds_its_own_inspect():
    program = "import inspect; print(inspect.getfile(inspect.signature))"
    command = [sys.executable, "-c", program]
    found = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=ROOT / "launch"
    )
    assert not found.stdout.startswith(str(ROOT))
    assert found.stdout.strip().endswith("inspect.py")
