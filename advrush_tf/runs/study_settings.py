"""The settings of a study: what is compared, and how all its runs are made."""

import contextlib
import enum
import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import attrs

from advrush_tf.attacks.geometry import Norm, Radius
from advrush_tf.errors import UserError
from advrush_tf.fit.objectives import ObjectiveName
from advrush_tf.genotypes.genotype import NAMED, Genotype, get_genotype
from advrush_tf.runs.attack_settings import ANY_RADIUS, AttackSettings
from advrush_tf.runs.fit_settings import FitSettings
from advrush_tf.runs.landscape_settings import LandscapeSettings
from advrush_tf.runs.recipes import fit_settings, has_use
from advrush_tf.runs.search_settings import IMAGE_SIZE, SearchSettings
from advrush_tf.runs.settings import (
    Check,
    Settings,
    all_distinct,
    gt,
    le,
    path_setting,
    setting,
)


class Drawn(enum.StrEnum):
    """An entry whose cells differ from seed to seed."""

    ADVRUSH = "advrush"
    DARTS = "darts"
    RANDOM = "random"


class Match(enum.StrEnum):
    """Sizes that the channels of the fitted networks can be chosen to make equal."""

    PARAMETERS = "parameters"
    MULTIPLY_ADDS = "multiply_adds"


# The stages of a study, whose settings have flags that begin with the stage's name.
STAGES: Mapping[str, type[Settings]] = {
    "search": SearchSettings,
    "fit": FitSettings,
    "attack": AttackSettings,
    "landscape": LandscapeSettings,
}
# What the study itself says to its stages, or never uses.
OWN = frozenset(
    {
        *("dataset", "image_size", "epsilon", "seed", "attacks", "model"),
        *("genotype", "objective", "network", "source_model", "sample_genotypes"),
        *("path_epochs", "sample_images", "sample_curvature_images"),
    }
)
_OBJECTIVES = f"of {', '.join(ObjectiveName)}"
_SOME = Check(bool, "one or more")


def _objectives(names: tuple[str, ...]) -> tuple[ObjectiveName, ...]:
    return tuple(map(ObjectiveName, names))


def _stage(name: str) -> Any:
    """Declares the settings of a stage, of which those that change it are kept."""
    fields = attrs.fields_dict(STAGES[name]).values()
    # None is what a fit's recipe says.
    unchanged = {f.name: None if name == "fit" else f.default for f in fields}

    def changed(given: Mapping[str, Any]) -> dict[str, Any]:
        return {n: v for n, v in given.items() if v not in (None, unchanged.get(n))}

    words = f"Settings of each {name}."
    return setting(attrs.Factory(dict), words, converter=changed, flag=False)


@attrs.frozen
class StudySettings(Settings):
    """Everything that determines a study's outcome.

    Raises:
        UserError: a value is out of range, or values contradict one another.
    """

    headings: ClassVar = {"entries": "Comparison"}

    entries: tuple[str, ...] = path_setting(
        tuple(Drawn),
        "What is compared, the first with all others: advrush (searched with the "
        "penalty), darts (the same without it), random cells, published names, paths "
        "of genotype.json files.",
        _SOME,
        Check(all_distinct, "entries named once each"),
    )
    seeds: int = setting(3, "Number of seeds, from 0.", gt(0), le(10**4))
    objectives: tuple[str, ...] = setting(
        ("standard", "fgsm_rs"),
        f"What each network is fitted by, {_OBJECTIVES}.",
        Check(bool, f"one or more {_OBJECTIVES}"),
        Check(all_distinct, "objectives named once each"),
        converter=_objectives,
    )
    attacks: tuple[str, ...] = setting(
        ("fgsm", "pgd20", "autoattack"), "As for launch/attack.py.", _SOME
    )
    dataset: str = path_setting("cifar10", "As for launch/search.py.")
    image_size: int | None = setting(None, IMAGE_SIZE, gt(0))
    epsilon: Radius = setting(
        "8/255",
        "Radius of all perturbations in [0, 1] units, such as 8/255; with "
        "--attack_norm=L2 of the attacks alone, and fits and inspections keep their "
        "usual radius.",
        ANY_RADIUS,
        converter=Radius,
    )
    select: int = setting(
        1,
        "Searches, or random cells, for each seed, of which the one whose short fit is "
        "most robust on held-out images is kept.",
        gt(0),
        le(1000),
    )
    select_epochs: int = setting(3, "Length of those short fits.", gt(0))
    match: Match | None = setting(
        None,
        "Give each network so many channels that its parameters or multiply-adds are "
        "within 5 % of those of the first entry's first seed.",
    )
    search: Mapping[str, Any] = _stage("search")
    fit: Mapping[str, Any] = _stage("fit")
    attack: Mapping[str, Any] = _stage("attack")
    landscape: Mapping[str, Any] = _stage("landscape")

    def check(self) -> None:
        for entry in self.fixed:
            self.genotype(entry)
        folders = ["tensorboard", *map(folder_name, self.entries)]
        self.require(
            "entries",
            all_distinct([folder.lower() for folder in folders]),
            "entries whose folders' names differ, and are not tensorboard",
        )
        self.require(
            "select",
            self.select == 1 or len(self.fixed) < len(self.entries),
            f"1, as no entry is one of {', '.join(Drawn)}",
        )
        for objective in self.objectives:
            self.fit_settings(objective, "ADVRUSH", 0)
        self.attack_settings("model.keras", 0)
        self.landscape_settings("model.keras", 0)
        for entry in (drawn for drawn in Drawn if drawn in self.entries):
            search = self.search_settings(entry, 0)
            self.require(
                "entries",
                search.gamma > 0 or entry != Drawn.ADVRUSH,
                "without advrush, as no epoch has the penalty: --search_gamma is 0",
            )

    def to_dict(self) -> dict[str, Any]:
        """Returns what must not change as JSON types; entries and seeds are added to.

        All are compared with the first entry, and their sizes follow from its own;
        another objective may not change what cells are selected by.
        """
        values = super().to_dict()
        added = {name: values.pop(name) for name in ("entries", "seeds", "objectives")}
        selected = {"selected_by": str(self.selected_by)} if self.select > 1 else {}
        return {"first_entry": added["entries"][0], **selected, **values}

    def _decisive(self, values: Mapping[str, Any]) -> dict[str, Any]:
        found = super()._decisive(values)
        for stage, kind in STAGES.items():
            fields = attrs.fields_dict(kind)
            found[stage] = {
                name: value
                for name, value in dict(found.get(stage, ())).items()
                if name not in fields or fields[name].metadata["decisive"]
            }
        return found

    @property
    def selected_by(self) -> str:
        """The objective of short fits: the last adversarial one, if there is any."""
        return sorted(self.objectives, key="standard".__ne__)[-1]

    @property
    def fixed(self) -> list[str]:
        """The entries whose cells are the same with all seeds."""
        return [entry for entry in self.entries if entry not in list(Drawn)]

    @staticmethod
    def genotype(entry: str) -> Genotype:
        """Returns the genotype that an entry names.

        Raises:
            UserError: there is none.
        """
        try:
            return get_genotype(entry)
        except ValueError as error:
            raise UserError(
                f"--entries: {error} Entries are also {', '.join(Drawn)}."
            ) from None

    def search_settings(self, entry: str, seed: int) -> SearchSettings:
        """Returns the settings of an entry's search."""
        given = {**self.search, **self._common(seed)}
        if entry != Drawn.ADVRUSH:
            given["gamma"] = 0.0
        return _made("search", SearchSettings, given)

    def fit_settings(
        self, objective: str, genotype: str, seed: int, **changes: Any
    ) -> FitSettings:
        """Returns the settings of a fit, some of them changed.

        A setting without use with the objective is left out where another one of the
        study uses it.
        """
        given = {**self._of_use(objective), **self._common(seed), **self._cube()}
        given |= {"objective": objective, "genotype": genotype, **changes}
        return _made("fit", fit_settings, given)

    def _of_use(self, objective: str) -> dict[str, Any]:
        schedule = self.fit.get("schedule")
        return {
            name: value
            for name, value in self.fit.items()
            if has_use(name, objective, schedule)
            or not any(has_use(name, other, schedule) for other in self.objectives)
        }

    def attack_settings(self, model: str, seed: int) -> AttackSettings:
        """Returns the settings of an evaluation."""
        given = {**self.attack, **self._common(seed), "epsilon": str(self.epsilon)}
        given |= {"attacks": self.attacks, "model": model}
        return _made("attack", AttackSettings, given)

    def landscape_settings(self, model: str, seed: int) -> LandscapeSettings:
        """Returns the settings of a measurement of curvature."""
        given = {**self.landscape, **self._common(seed), **self._cube()}
        return _made("landscape", LandscapeSettings, given | {"model": (model,)})

    def _cube(self) -> dict[str, Any]:
        """The radius of what perturbs in the L-infinity norm alone."""
        if self.attack_settings("model.keras", 0).norm == Norm.L2:
            return {}
        return {"epsilon": str(self.epsilon)}

    def _common(self, seed: int) -> dict[str, Any]:
        return {"dataset": self.dataset, "image_size": self.image_size, "seed": seed}


def _made(stage: str, make: Any, given: Mapping[str, Any]) -> Any:
    with flags_of(stage):
        return make(**given)


@contextlib.contextmanager
def flags_of(stage: str) -> Iterator[None]:
    """Lets the errors within, on a stage's settings, name the study's flags."""
    try:
        yield
    except UserError as error:
        name = re.split("[ =:]", str(error).removeprefix("--"), maxsplit=1)[0]
        flag = f"--{name}" if name in OWN else f"--{stage}_{name}"
        raise UserError(str(error).replace(f"--{name}", flag, 1)) from None


def folder_name(entry: str) -> str:
    """Returns the name of an entry's folder: that of a path has no slashes.

    Not every disk tells ADVRUSH from advrush.
    """
    if entry in NAMED:
        return f"published_{entry}"
    if entry in list(Drawn):
        return entry
    return entry.removesuffix(".json").strip("./").replace("/", "_")
