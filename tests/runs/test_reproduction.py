import json
import subprocess
from pathlib import Path

import pytest

from advrush_tf.runs.attack_settings import AttackSettings
from advrush_tf.runs.landscape_settings import LandscapeSettings
from advrush_tf.runs.recipes import fit_settings
from advrush_tf.runs.reproduction import command
from advrush_tf.runs.search_settings import SearchSettings


def _flags(text):
    """The flags of a command as a shell reads them: name -> texts."""
    script = f'python() {{ printf "%s\\0" "$@"; }}\n{text}'
    result = subprocess.run(["sh", "-c", script], capture_output=True, check=True)
    launcher, *words = result.stdout.decode().removesuffix("\0").split("\0")
    found = {}
    for word in words:
        name, _, value = word.removeprefix("--").partition("=")
        found.setdefault(name, []).append(value)
    return launcher, found


def _value(text):
    """A text as JSON if it is JSON, such as a number or a truth."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def test_only_what_differs_from_the_defaults_is_a_flag():
    settings = SearchSettings(
        dataset="digits", epochs=8, warmup_epochs=6, augment=False
    )
    assert command("search", settings.to_dict(), Path("runs/digits")) == (
        "python launch/search.py \\\n    --dataset=digits \\\n    --epochs=8 \\\n"
        "    --warmup_epochs=6 \\\n    --augment=false \\\n    --workdir=runs/digits"
    )


def test_lists_are_joined_by_commas():
    settings = SearchSettings(primitives=("none", "skip_connect")).to_dict()
    _, flags = _flags(command("search", settings, Path("w")))
    assert flags == {"primitives": ["none,skip_connect"], "workdir": ["w"]}


def test_a_shell_reads_any_path_as_it_is():
    path = "my data/$HOME/it's"
    settings = SearchSettings(dataset=path).to_dict()
    _, flags = _flags(command("search", settings, Path(path, "run")))
    assert flags == {"dataset": [path], "workdir": [f"{path}/run"]}


def test_hashes_are_not_flags_and_only_inspect_repeats_models():
    attack = AttackSettings(
        model="a.keras", source_model=("b.keras", "c.keras"), sha256=("1", "2", "3")
    )
    launcher, flags = _flags(command("attack", attack.to_dict(), Path("w")))
    assert launcher == "launch/attack.py"
    assert flags == {
        "model": ["a.keras"],
        "source_model": ["b.keras,c.keras"],
        "workdir": ["w"],
    }
    inspect = LandscapeSettings(model=("a.keras", "b.keras"), sha256=("1", "2"))
    launcher, flags = _flags(command("landscape", inspect.to_dict(), Path("w")))
    assert launcher == "launch/landscape.py"
    assert flags == {"model": ["a.keras", "b.keras"], "workdir": ["w"]}


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({}, set()),
        ({"objective": "trades"}, {"objective"}),
        ({"objective": "fgsm_rs", "epsilon": 0.1}, {"objective", "epsilon"}),
        ({"epsilon": 8 / 255, "step_size": 0.01}, {"epsilon", "step_size"}),
        ({"network": "resnet18", "epochs": 3}, {"network", "epochs"}),
        ({"schedule": "one_cycle", "jit_compile": True}, {"schedule", "jit_compile"}),
        ({"milestones": (0.25, 0.5)}, {"milestones"}),
    ],
)
def test_a_fit_is_its_recipe_and_what_differs(given, names):
    settings = fit_settings(**given)
    _, flags = _flags(command("fit", settings.to_dict(), Path("w")))
    assert flags.keys() == names | {"workdir"}
    del flags["workdir"]
    again = {name: _value(text) for name, (text,) in flags.items()}
    if "milestones" in again:
        again["milestones"] = tuple(map(float, again["milestones"].split(",")))
    assert fit_settings(**again) == settings


def test_what_a_fit_settles_for_its_images_is_given():
    settings = fit_settings("standard").for_images((8, 8, 1))
    _, flags = _flags(command("fit", settings.to_dict(), Path("w")))
    assert flags["cutout"] == ["4"]
    assert float(flags["auxiliary_weight"][0]) == settings.auxiliary_weight
