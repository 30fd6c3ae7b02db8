import time

import numpy as np
import pytest

from advrush_tf.files import read_json
from advrush_tf.runs.attack import run_attack
from advrush_tf.runs.attack_settings import AttackSettings
from support.attacked import save_linear_model
from support.processes import (
    assert_is_one_error,
    assert_is_one_error_of,
    launch,
    workers,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_linear_model(tmp_path_factory.mktemp("models") / "model.keras")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--no_such_flag=1"], "no_such_flag"),
        (["--norm=L7"], "linf"),
        ([], "--model is"),
        (["--model=none.keras"], "no model file none.keras"),
        (["--model=launch/attack.py"], "not a .keras file"),
        (["--model=none.keras", "--attacks=magic"], "autoattack"),
        (
            ["--model=none.keras", "--epsilon=x"],
            "--epsilon is x; it must be 1e-06 or more, a number",
        ),
        (["--model=none.keras", "--epsilons=0,8/0"], "--epsilons is 0,8/0; it must be"),
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
        optimised=True,
    )
    assert result.returncode == 0, result.stderr
    assert "| pgd3 | 0.1 |" in result.stdout
    assert "Robust accuracy" in result.stdout
    assert (tmp_path / "results.json").exists()
    command = (tmp_path / "command.txt").read_text()
    assert f"python launch/attack.py --model={model} " in command


# An odd number of images: the shards are not of one size.
SHARED = {
    "dataset": "digits",
    "epsilon": "1/20",
    "test_images": 21,
    "batch_size": 4,
    "checks": False,
}
ATTACKS = ("pgd3x2", "apgd-ce")


@pytest.fixture(scope="module")
def on_one_device(model, tmp_path_factory):
    """Workdir and results of what the other tests divide."""
    workdir = tmp_path_factory.mktemp("one")
    settings = AttackSettings(model=str(model), attacks=ATTACKS, **SHARED)
    return workdir, run_attack(settings, workdir, log=lambda line: None)


@pytest.fixture(scope="module")
def flags(model):
    return SHARED | {"model": model, "attacks": ",".join(ATTACKS)}


def assert_same(one, sharded):
    """Checks that an evaluation in two shards ended as one on one device did.

    Args:
        one: the other's workdir and results.
        sharded: the workdir of both shards.
    """
    workdir, expected = one
    found = read_json(sharded / "results.json")
    assert without_times(found) == without_times(expected)
    for path in (workdir / "trials").iterdir():
        for index in range(2):
            shard = sharded / "trials" / f"{path.stem}_{index + 1}of2.npz"
            with np.load(path) as whole, np.load(shard) as part:
                for name in ("images", "broken_by"):
                    np.testing.assert_array_equal(part[name], whole[name][index::2])


def without_times(results):
    attacks = [{**attack, "seconds": 0} for attack in results["attacks"]]
    return {**results, "attacks": attacks, "seconds": 0}


def test_two_devices_give_what_one_gives(flags, on_one_device, tmp_path):
    both = flags | {"strategy": "mirrored", "virtual_cpus": 2, "workdir": tmp_path}
    result = launch("attack", *(f"--{name}={value}" for name, value in both.items()))
    assert result.returncode == 0, result.stderr
    assert_same(on_one_device, tmp_path)


def test_two_workers_of_which_one_is_killed(flags, on_one_device, tmp_path):
    with workers("attack", flags, tmp_path) as (chief, other):
        while not (tmp_path / "trials/0_pgd3x2_1of20_2of2.npz").exists():
            assert other.poll() is None
            time.sleep(0.05)
        other.kill()
        _, errors = chief.communicate(timeout=60)
    assert_is_one_error_of(chief, errors, 1, "another worker has stopped")
    assert not (tmp_path / "results.json").exists()
    with workers("attack", flags, tmp_path) as (chief, other):
        printed, errors = chief.communicate(timeout=120)
        silent, _ = other.communicate(timeout=60)
    assert (chief.returncode, other.returncode) == (0, 0), errors
    assert "Resuming" in printed
    assert silent == ""
    assert_same(on_one_device, tmp_path)
