import functools
import json
import os
from pathlib import Path

import attrs
import pytest

from advrush_tf.environment import onednn_is_on
from advrush_tf.errors import UserError
from advrush_tf.files import read_json
from advrush_tf.runs import settings as settings_module
from advrush_tf.runs import study_settings
from advrush_tf.runs.attack_settings import AttackSettings
from advrush_tf.runs.fit_settings import FitSettings
from advrush_tf.runs.landscape_settings import LandscapeSettings
from advrush_tf.runs.recipes import fit_settings, recipe_defaults
from advrush_tf.runs.search_settings import SearchSettings
from advrush_tf.runs.settings import (
    Precision,
    Settings,
    all_distinct,
    ge,
    record_settings,
    setting,
    settings_table,
)
from advrush_tf.runs.study_settings import StudySettings
from advrush_tf.search.penalty import Penalty


def test_settings_are_recorded_once_and_compared(tmp_path):
    settings = SearchSettings(dataset="digits")
    record_settings(settings, tmp_path / "new" / "run")
    record_settings(settings, tmp_path / "new" / "run")
    recorded = read_json(tmp_path / "new" / "run" / "settings.json")
    assert recorded == settings.to_dict()
    assert recorded["penalty"] == "norm"
    environment = read_json(tmp_path / "new" / "run" / "environment.json")
    assert environment == {"onednn": onednn_is_on()}
    other = SearchSettings(dataset="digits", gamma=0.5)
    with pytest.raises(UserError, match=r"gamma is 0\.01 there and 0\.5 here"):
        record_settings(other, tmp_path / "new" / "run")


def test_settings_that_are_gone_are_not_written_anew(tmp_path):
    record_settings(SearchSettings(seed=1), tmp_path)
    (tmp_path / "settings.json").unlink()
    (tmp_path / "older" / "checkpoints").mkdir(parents=True)
    for workdir in (tmp_path, tmp_path / "older"):
        with pytest.raises(UserError, match=r"settings\.json is damaged \(it is gone"):
            record_settings(SearchSettings(seed=2), workdir)
        assert not (workdir / "settings.json").exists()


def test_names_of_files_and_batches_of_an_evaluation_are_not_compared(tmp_path):
    settings = AttackSettings(model="a.keras", source_model=("b",), sha256=("1", "2"))
    record_settings(settings, tmp_path)
    again = attrs.evolve(
        settings, model="./a.keras", source_model=("c/../b",), batch_size=7
    )
    record_settings(again, tmp_path)
    assert read_json(tmp_path / "settings.json") == settings.to_dict()
    # Where something counts, all that differs is named.
    other = attrs.evolve(again, sha256=("1", "3"))
    with pytest.raises(UserError, match=r"batch_size is 128 there.*sha256 is "):
        record_settings(other, tmp_path)
    record_settings(LandscapeSettings(model=("a",)), tmp_path / "inspection")
    again = LandscapeSettings(model=("./a",), batch_size=3)
    record_settings(again, tmp_path / "inspection")


@pytest.mark.parametrize(
    ("there", "here", "same"),
    [
        ({"epsilon": "8/255"}, {"epsilon": "8 / 255"}, True),
        ({"epsilon": "8/255"}, {"epsilon": repr(8 / 255)}, True),
        ({"epsilon": "8/255"}, {"epsilon": "0.0314"}, False),
        ({"epsilons": ("0", ".5")}, {"epsilons": ("0.0", "1/2")}, True),
        ({"dataset": "d.npz"}, {"dataset": "./a/../d.npz"}, True),
        ({"dataset": "./own/"}, {"dataset": "./own"}, True),
        ({"dataset": "cifar10"}, {"dataset": "./cifar10"}, False),
        ({"dataset": "d.npz"}, {"dataset": "e.npz"}, False),
    ],
)
def test_spellings_are_not_compared(there, here, same):
    first, second = (AttackSettings(model="m", **given) for given in (there, here))
    assert (second.differences(first.to_dict()) == []) == same
    assert (second.decisive() == first.decisive()) == same


def test_unusable_workdirs_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--workdir"):
        record_settings(SearchSettings(), tmp_path / "file" / "run")
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        record_settings(SearchSettings(), tmp_path)


@pytest.mark.parametrize(
    "make",
    [
        lambda size: SearchSettings(image_size=size),
        lambda size: AttackSettings(model="m", image_size=size),
        lambda size: LandscapeSettings(model=("m",), image_size=size),
    ],
    ids=["search", "attack", "inspect"],
)
def test_an_image_size_is_more_than_0(make):
    assert make(8).image_size == 8
    assert make(None).image_size is None
    with pytest.raises(UserError, match="--image_size is 0; it must be more than 0"):
        make(0)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (SearchSettings, "dataset"),
        (FitSettings, "dataset"),
        (FitSettings, "genotype"),
        (AttackSettings, "dataset"),
        (AttackSettings, "model"),
        (LandscapeSettings, "dataset"),
        (functools.partial(AttackSettings, model="m"), "source_model"),
        (LandscapeSettings, "model"),
        (StudySettings, "entries"),
    ],
)
def test_a_tilde_in_a_path_is_the_home_folder(make, name, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    several = name in ("source_model", "entries")
    several |= make is LandscapeSettings and name == "model"
    monkeypatch.setattr(study_settings, "get_genotype", lambda entry: None)
    needed = {"model": "m"} if make is AttackSettings else {}
    needed = {"model": ("m",)} if make is LandscapeSettings else needed

    def read(path):
        return getattr(make(**needed | {name: (path,) if several else path}), name)

    assert read("~/a") in ("/home/me/a", ("/home/me/a",))
    with pytest.raises(UserError, match=f"--{name}: ~nosuchuser/a begins with no"):
        read("~nosuchuser/a")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_workdir_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="Permission denied"):
        record_settings(SearchSettings(), tmp_path)


DEEP = b"[" * 10**5


@pytest.mark.parametrize("content", [b"[]", b"null", b"{", b"\xff\xfe", DEEP])
def test_damaged_settings_are_one_clear_line(tmp_path, content):
    (tmp_path / "settings.json").write_bytes(content)
    with pytest.raises(UserError, match=r"settings.json is damaged .* --workdir"):
        record_settings(SearchSettings(), tmp_path)
    assert (tmp_path / "settings.json").read_bytes() == content


def test_a_folder_that_became_read_only_is_noticed(tmp_path, monkeypatch):
    record_settings(SearchSettings(), tmp_path)

    def refuse(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(settings_module, "write_text", refuse)
    with pytest.raises(UserError, match="Permission denied"):
        record_settings(SearchSettings(), tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("init_channels", "16", "a whole number"),
        ("init_channels", 16.0, "a whole number"),
        ("init_channels", True, "a whole number"),
        ("momentum", "0.9", "a number"),
        ("momentum", None, "a number"),
        ("augment", 1, "true or false"),
        ("dataset", 5, "a text"),
        ("primitives", "none", "a list"),
        ("primitives", [1], "a text"),
        ("penalty", ["norm"], "one of norm"),
        ("epochs", 10**24, "less than 2"),
        ("learning_rate", 1e300, "a finite number, at most 3.4e"),
        ("learning_rate", 10**400, "less than 2"),
    ],
)
def test_settings_of_another_type_or_size_are_refused(name, value, allowed):
    values = SearchSettings().to_dict() | {name: value}
    with pytest.raises(UserError, match=f"--{name} is .*; it must be {allowed}"):
        SearchSettings.from_dict(values)


def test_settings_are_as_they_were_after_json():
    for settings in (
        SearchSettings(image_size=8),
        AttackSettings(model="m", epsilons=("0", "2/255")),
        LandscapeSettings(model=("a", "b")),
        fit_settings("standard", "resnet18"),
    ):
        again = json.loads(json.dumps(settings.to_dict()))
        assert type(settings).from_dict(again) == settings


DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "settings.md"
INTRODUCTION = """\
# Settings

The flags that determine a run's outcome, and the fields of its settings in Python. A
flag is written `--name=value`, a switch `--name` or `--noname`, a list with commas; a
number may be a fraction such as 8/255. `--help` of a launcher also lists the values of
a choice, and the flags that say where a run works: folders and devices. The recipes of
a fit, where defaults differ between them, are in the [guide](guide.md#fit-a-genotype).
`launch/study.py` also has the flags of the other launchers, after `search_`, `fit_`,
`attack_` or `landscape_`, but for those that it sets itself.

This page follows from the declarations: `python tests/runs/test_settings.py` writes it.
"""
RUNS = {
    "launch/search.py": (SearchSettings, None),
    "launch/fit.py": (FitSettings, recipe_defaults()),
    "launch/attack.py": (AttackSettings, None),
    "launch/landscape.py": (LandscapeSettings, None),
    "launch/study.py": (StudySettings, None),
}


def document():
    """What docs/settings.md shall be."""
    tables = [
        f"## {launcher}\n\n{settings_table(kind, defaults)}\n"
        for launcher, (kind, defaults) in RUNS.items()
    ]
    return "\n".join([INTRODUCTION, *tables])


def test_the_documentation_lists_all_settings():
    stale = "docs/settings.md is stale; `python tests/runs/test_settings.py` writes it"
    assert DOCUMENT.read_text("utf-8") == document(), stale


WITH_RADIUS = {
    "fit": fit_settings,
    "attack": functools.partial(AttackSettings, model="m"),
    "landscape": functools.partial(LandscapeSettings, model=("m",)),
}
RECORDED = {"fit": 8 / 255, "attack": "8/255", "landscape": "8/255"}


@pytest.mark.parametrize("name", WITH_RADIUS)
def test_a_radius_is_read_from_a_text_and_kept_in_json(name):
    settings = WITH_RADIUS[name](epsilon="8/255")
    assert (settings.epsilon, str(settings.epsilon)) == (8 / 255, "8/255")
    recorded = settings.to_dict()
    assert recorded["epsilon"] == RECORDED[name]
    assert type(recorded["epsilon"]) is type(RECORDED[name])
    assert type(settings).from_dict(recorded) == settings
    assert str(attrs.evolve(settings, seed=1).epsilon) == "8/255"


@pytest.mark.parametrize("name", WITH_RADIUS)
@pytest.mark.parametrize(
    "value",
    ["nan", float("nan"), "inf", "-8/255", -0.1, "x", "", "8/0", "300/255", "8", 31, 0],
)
def test_what_is_no_radius_is_refused_in_one_line(name, value):
    with pytest.raises(UserError) as error:
        WITH_RADIUS[name](epsilon=value)
    allowed = ["in (0, 1], a number or a fraction such as 8/255."]
    if name == "attack":
        # In L2 it has no bound.
        number = "1e-06 or more, a number or a fraction such as 8/255."
        allowed = [number, "at most 1 in Linf."]
    start = f"--epsilon is {value}; it must be "
    assert str(error.value) in [start + each for each in allowed]


def test_equal_values_do_not_differ():
    assert all_distinct(("a", "b"))
    assert not all_distinct(("a", "b", "a"))


@attrs.frozen
class Small(Settings):
    """Two flags, and a field that a run fills in."""

    size: int | None = setting(None, "A size | a width.", ge(0))
    names: tuple[str, ...] = setting(("a", "b"), "Some names.")
    sha256: str = setting("", "Of a file.", flag=False)


def test_the_table_of_the_documentation():
    assert settings_table(Small).splitlines() == [
        "| flag | default | meaning |",
        "|---|---|---|",
        "| `--size` | none | A size \\| a width. |",
        "| `--names` | a,b | Some names. |",
    ]
    recipes = settings_table(Small, {"size": "the recipe's"})
    assert "| `--size` | the recipe's | A size" in recipes


@pytest.mark.parametrize(
    "kind", [SearchSettings, FitSettings, AttackSettings, LandscapeSettings]
)
def test_every_field_has_a_help_of_whole_sentences(kind):
    for field in attrs.fields(kind):
        assert field.metadata["help"].endswith("."), field.name


def test_settings_are_read_back_as_they_were_written():
    settings = SearchSettings(
        precision=Precision.FLOAT64, penalty=Penalty.SQUARED_NORM, image_size=8
    )
    again = SearchSettings.from_dict(json.loads(json.dumps(settings.to_dict())))
    assert again == settings
    assert again.precision is Precision.FLOAT64
    older = {n: v for n, v in settings.to_dict().items() if n != "train_images"}
    assert SearchSettings.from_dict(older) == settings
    assert settings.differences(older) == []
    for others in ({"colour": "red"}, {"batch_size": None}):
        values = {**settings.to_dict(), **others}
        values = {n: v for n, v in values.items() if (n, v) != ("batch_size", None)}
        with pytest.raises(ValueError, match="its entries are others"):
            SearchSettings.from_dict(values)
    other = {**settings.to_dict(), "precision": "mixed_float16"}
    with pytest.raises(UserError, match=r"--precision .* \(mixed_bfloat16 serves as"):
        SearchSettings.from_dict(other)


if __name__ == "__main__":
    DOCUMENT.write_text(document(), "utf-8")
