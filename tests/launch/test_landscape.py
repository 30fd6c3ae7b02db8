import pytest

from support.processes import assert_is_one_error, launch


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
    result = launch(
        "landscape", "--dataset=digits", *arguments, f"--workdir={tmp_path}"
    )
    assert_is_one_error(result, words)
