import os

import pytest

from support.processes import assert_is_one_error, launch

SMALL = ("--dataset=digits", "--num_cells=1", "--init_channels=1")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--no_such_flag=1"], "no_such_flag"),
        (["--objective=cube"], "fgsm_rs"),
        (["--epsilon=8/0"], "--epsilon is 8/0; it must be in (0, 1], a number or a"),
        (["--epochs=0"], "--epochs is 0"),
        (["--beta=6"], "--beta has no use with --objective=pgd"),
        (["--genotype=no_such"], "ADVRUSH"),
        (["--dataset=no_such_set"], "no_such_set"),
        ([*SMALL, "--workdir=setup.py/x"], "--workdir"),
        (["extra"], "extra"),
        (["--workdir="], "must name a folder"),
    ],
)
def test_bad_input_is_one_line_and_code_2(arguments, words):
    assert_is_one_error(launch("fit", *arguments), words)


def test_a_dry_run_with_fractions(tmp_path):
    small = ["--init_channels=2", "--num_cells=1", "--batch_size=16", "--epochs=1"]
    result = launch(
        "fit",
        *("--dataset=digits", "--dry_run", "--epsilon=8/255", "--milestones=1/3,2/3"),
        *(*small, f"--workdir={tmp_path / 'none'}"),
    )
    assert result.returncode == 0, result.stderr
    assert "parameters" in result.stdout
    assert not os.listdir(tmp_path)
