import keras
import pytest
from processes import assert_is_one_error, launch


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "model.keras"
    layers = keras.layers
    keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(10)]).save(
        path
    )
    return path


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--no_such_flag=1"], "no_such_flag"),
        (["--norm=L7"], "linf"),
        ([], "--model is"),
        (["--model=none.keras"], "no model file none.keras"),
        (["--model=launch/attack.py"], "not a .keras file"),
        (["--model=none.keras", "--attacks=magic"], "autoattack"),
        (["--model=none.keras", "--epsilon=8"], "--epsilon is 8"),
        (["--model=none.keras", "--dataset=no_such_set"], "no_such_set"),
    ],
)
def test_bad_input_is_one_line_and_code_2(arguments, words):
    digits = [] if any("dataset" in a for a in arguments) else ["--dataset=digits"]
    assert_is_one_error(launch("attack", *digits, *arguments), words)


def test_an_evaluation_from_the_command_line(model, tmp_path):
    result = launch(
        "attack",
        *(f"--model={model}", "--dataset=digits", "--test_images=20"),
        *("--attacks=fgsm,pgd3", "--epsilon=0.1", f"--workdir={tmp_path}"),
    )
    assert result.returncode == 0, result.stderr
    assert "| pgd3 | 0.1 |" in result.stdout
    assert "Robust accuracy" in result.stdout
    assert (tmp_path / "results.json").exists()
