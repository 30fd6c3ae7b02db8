import pytest

from support.processes import assert_is_one_error, launch

CHECKPOINT = "--checkpoint=testdata/checkpoints/evaluation.pth.tar"


def test_it_writes_the_model_and_says_so(tmp_path):
    output = tmp_path / "model.keras"
    result = launch("convert", CHECKPOINT, "--genotype=ADVRUSH", f"--output={output}")
    assert result.returncode == 0, result.stderr
    assert output.is_file()
    assert str(output) in result.stdout
    assert "load_model" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--no_such_flag=1"], "no_such_flag"),
        ([], "--checkpoint"),
        (["--normalise=mean"], "official"),
        (["--genotype=RACL"], "--genotype=RACL: entry 'cells."),
        (["--genotype=ADVRUSH", "extra"], "extra"),
    ],
)
def test_bad_input_is_one_line_and_code_2(tmp_path, arguments, words):
    given = [CHECKPOINT, f"--output={tmp_path / 'model.keras'}"] if arguments else []
    result = launch("convert", *given, *arguments)
    assert_is_one_error(result, words)
    assert not list(tmp_path.iterdir())
