import os
import subprocess
import sys

import pytest

from support.processes import ROOT, assert_is_one_error, launch

SMALL = ("--dataset=digits", "--num_cells=1", "--init_channels=1")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--no_such_flag=1"], "no_such_flag"),
        (["--penalty=cube"], "squared_norm"),
        (["--epochs=0"], "--epochs is 0"),
        (["--dataset=digits", "--num_cells=8", "--num_nodes=0"], "--num_nodes"),
        (["--dataset=no_such_set"], "no_such_set"),
        ([*SMALL, "--workdir=setup.py/x"], "--workdir"),
        (["extra"], "extra"),
        (["--strategy=all"], "<none|mirrored|multiworker>"),
        (["--dry_run", "--strategy=mirrored"], "--dry_run measures on one device"),
        (["--virtual_cpus=2"], "--virtual_cpus is for --strategy=mirrored"),
        (
            ["--dataset=digits", "--strategy=mirrored", "--virtual_cpus=3"],
            "--batch_size is 32; it must be a multiple of the 3 replicas",
        ),
        (
            [
                *("--dataset=digits", "--strategy=mirrored", "--virtual_cpus=2"),
                *("--batch_size=24", "--penalty_batch=8"),
            ],
            "divisor of 12, each replica's part",
        ),
    ],
)
def test_bad_input_is_one_line_and_code_2(arguments, words):
    assert_is_one_error(launch("search", *arguments), words)


def test_what_tensorflow_writes_at_its_start_does_not_bury_the_error():
    environment = {name: v for name, v in os.environ.items() if "TF_" not in name}
    result = subprocess.run(
        [sys.executable, "launch/search.py", "--epochs=-1"],
        cwd=ROOT,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.stdout == ""
    assert result.stderr == "error: --epochs is -1; it must be more than 0.\n"
    assert result.returncode == 2
