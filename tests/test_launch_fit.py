import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def _run(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "launch/fit.py", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--no_such_flag=1"], "no_such_flag"),
        (["--objective=cube"], "fgsm_rs"),
        (["--epsilon=8/0"], "a fraction such as 8/255"),
        (["--epochs=0"], "--epochs is 0"),
        (["--beta=6"], "--beta has no use with --objective=pgd"),
        (["--genotype=no_such"], "ADVRUSH"),
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


def test_a_dry_run_with_fractions(tmp_path):
    small = ["--init_channels=2", "--num_cells=1", "--batch_size=16", "--epochs=1"]
    result = _run(
        *("--dataset=digits", "--dry_run", "--epsilon=8/255", "--milestones=1/3,2/3"),
        *(*small, f"--workdir={tmp_path / 'none'}"),
    )
    assert result.returncode == 0, result.stderr
    assert "parameters" in result.stdout
    assert not os.listdir(tmp_path)
