import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CHECKPOINT = "--checkpoint=testdata/checkpoints/evaluation.pth.tar"


def _run(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "launch/convert.py", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True
    )


def test_it_writes_the_model_and_says_so(tmp_path):
    output = tmp_path / "model.keras"
    result = _run(CHECKPOINT, "--genotype=ADVRUSH", f"--output={output}")
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
    result = _run(*given, *arguments)
    assert result.returncode == 2
    errors = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert words in errors[0]
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())
