import pytest
from processes import assert_is_one_error, launch


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
    assert_is_one_error(launch("search", *arguments), words)
