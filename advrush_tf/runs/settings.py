"""Settings of a run: checked where they are made, kept with its results."""

import dataclasses
import enum
import json
import math
from collections.abc import Collection, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from advrush_tf.errors import UserError
from advrush_tf.files import write_text
from advrush_tf.runs.command import record_command


class Precision(enum.StrEnum):
    """Arithmetic of a network."""

    FLOAT32 = "float32"
    MIXED_BFLOAT16 = "mixed_bfloat16"
    MIXED_FLOAT16 = "mixed_float16"
    FLOAT64 = "float64"


def read_number(text: str) -> float:
    """Reads a number, also one written as a fraction such as 8/255.

    Raises:
        ValueError: it is neither.
    """
    try:
        return float(Fraction(text)) if "/" in text else float(text)
    except ArithmeticError as error:
        raise ValueError(f"{text} is not a number: {error}") from None


def number_or_nan(text: str) -> float:
    """As `read_number`; what is no number is NaN, which is out of every range."""
    try:
        return read_number(text)
    except ValueError:
        return math.nan


def all_distinct(values: Collection[Any]) -> bool:
    """Whether no two of the values are equal."""
    return len(set(values)) == len(values)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Base of the settings: what determines a run's outcome, one field a flag.

    A subclass checks its fields in `check`.

    Raises:
        UserError: a value is out of range.
    """

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if isinstance(value, float):
                self.require(name, math.isfinite(value), "a finite number")
        self.check()

    def check(self) -> None:
        """Raises UserError where a field is out of range."""

    def require(self, name: str, holds: bool, allowed: str) -> None:
        """Raises UserError, saying what a field is and what is allowed."""
        if not holds:
            value = getattr(self, name)
            raise UserError(f"--{name} is {value}; it must be {allowed}.")

    def require_positive(self, *names: str) -> None:
        """Raises UserError where one of the fields is not more than 0."""
        for name in names:
            self.require(name, getattr(self, name) > 0, "more than 0")

    def require_not_negative(self, *names: str) -> None:
        """Raises UserError where one of the fields is less than 0."""
        for name in names:
            self.require(name, getattr(self, name) >= 0, "0 or more")

    def require_share(self, *names: str) -> None:
        """Raises UserError where one of the fields is not in [0, 1)."""
        for name in names:
            self.require(name, 0 <= getattr(self, name) < 1, "in [0, 1)")

    def require_image_size(self) -> None:
        """Raises UserError where `image_size` is given and not a number of pixels."""
        size = vars(self)["image_size"]
        self.require("image_size", size is None or size > 0, "more than 0")

    def require_recomputation(self) -> None:
        """Raises UserError where `recompute_cells` is asked for in vain."""
        values = vars(self)
        self.require(
            "recompute_cells",
            not (values["recompute_cells"] and values["jit_compile"]),
            "false with --jit_compile, as XLA merges the second run with the first",
        )

    def require_seed(self) -> None:
        """Raises UserError where `seed` does not fit all random generators."""
        self.require_not_negative("seed")
        self.require("seed", vars(self)["seed"] < 2**32, "less than 2**32")

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON types."""
        return json.loads(json.dumps(dataclasses.asdict(self)))


def record_settings(settings: Settings, workdir: Path) -> None:
    """Writes settings.json, or compares with the one that is there.

    Raises:
        UserError: the folder cannot be used, or holds a run with other settings; the
            message shows the difference.
    """
    path, wanted = workdir / "settings.json", settings.to_dict()
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            record_command(workdir)
            write_text(path, json.dumps(wanted, indent=2) + "\n")
        recorded = json.loads(path.read_text())
        if not isinstance(recorded, dict):
            raise ValueError("it holds no settings")
        # Nothing changes, but a folder that cannot be written is noticed now.
        write_text(path, path.read_text())
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}). Delete it if you know that the folder's "
            "run had these settings, or give another --workdir."
        ) from None
    except OSError as error:
        raise UserError(
            f"Cannot use the workdir {workdir}: {error.strerror}. Give a folder that "
            "can be written, --workdir=PATH."
        ) from None
    if different := differences(recorded, wanted):
        raise UserError(
            f"{workdir} holds a run with other settings: {'; '.join(different)}. "
            "Give another --workdir, or the same settings to resume."
        )


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What differs between settings as JSON types, a phrase each."""
    return [
        f"{name} is {there.get(name)!r} there and {here.get(name)!r} here"
        for name in sorted({*there, *here})
        if there.get(name) != here.get(name)
    ]
