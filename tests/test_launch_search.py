import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def _run(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "launch/search.py", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--no_such_flag=1"], "no_such_flag"),
        (["--penalty=cube"], "squared_norm"),
        (["--epochs=0"], "--epochs is 0"),
        (["--dataset=digits", "--num_cells=8", "--num_nodes=0"], "--num_nodes"),
        (["--dataset=no_such_set"], "no_such_set"),
        (["--dataset=digits", "--workdir=setup.py/x", "--num_cells=2"], "--workdir"),
        (["extra"], "extra"),
    ],
)
def test_bad_input_is_one_line_and_code_2(arguments, words):
    result = _run(*arguments)
    assert result.returncode == 2
    errors = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert words in errors[0]
    assert "Traceback" not in result.stderr
