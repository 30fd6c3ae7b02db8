"""Settings of a run: each declared once, checked where made, kept with the results."""

import enum
import json
import numbers
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, NamedTuple, Self, get_args, get_origin

import attrs
import numpy as np

from advrush_tf.attacks.geometry import Radius
from advrush_tf.data.source import normal_path
from advrush_tf.environment import onednn_is_on
from advrush_tf.errors import AnotherRunError, Choice, UserError
from advrush_tf.files import expanded, read_json, write_json, write_text
from advrush_tf.runs.command import record_command


class Precision(enum.StrEnum):
    """Arithmetic of a network."""

    FLOAT32 = "float32"
    MIXED_BFLOAT16 = "mixed_bfloat16"
    FLOAT64 = "float64"


def all_distinct(values: Collection[Any]) -> bool:
    """Returns True if no two of the values are equal."""
    return len(set(values)) == len(values)


class Check(NamedTuple):
    """A condition on one field, and what it allows in words: "more than 0"."""

    holds: Callable[[Any], bool]
    allowed: str


def gt(bound: float) -> Check:
    """Returns the check that a value is more than `bound`."""
    return Check(lambda value: value > bound, f"more than {bound}")


def ge(bound: float) -> Check:
    """Returns the check that a value is `bound` or more."""
    return Check(lambda value: value >= bound, f"{bound} or more")


def le(bound: float) -> Check:
    """Returns the check that a value is `bound` or less."""
    return Check(lambda value: value <= bound, f"{bound:,} or less")


# The largest number that the networks' arithmetic holds.
_FLOAT32 = float(np.finfo(np.float32).max)
SHARE = Check(lambda value: 0 <= value < 1, "in [0, 1)")
INNER_SHARE = Check(lambda value: 0 < value < 1, "between 0 and 1")
RADIUS = Check(
    lambda radius: 0 < radius <= 1, "in (0, 1], a number or a fraction such as 8/255"
)
# What all random generators take.
SEED = (ge(0), Check(lambda value: value < 2**32, "less than 2**32"))
_FINITE = Check(
    lambda value: not isinstance(value, float) or abs(value) <= _FLOAT32,
    f"a finite number, at most {_FLOAT32:.3g}",
)
_WHOLE = Check(
    lambda value: not isinstance(value, int) or abs(value) < 2**32, "less than 2**32"
)
NO_XLA = "false with --jit_compile, as XLA merges the second run with the first"


def setting(
    default: Any,
    help_text: str,
    *checks: Check,
    converter: Callable[[Any], Any] = lambda value: value,
    flag: bool = True,
    repeated: bool = False,
    decisive: bool = True,
) -> Any:
    """Declares a field of settings; its flag and its documentation follow from it.

    Args:
        default: the field's default value.
        help_text: what the field means, in one sentence or more.
        *checks: conditions on any value but None.
        converter: makes the value of what is given, such as a number of its text;
            where it raises ValueError, the first check says what is allowed, but a
            UserError says it itself.
        flag: False for a field that the run fills in.
        repeated: True for a flag that is given once for each value of the field.
        decisive: False for a field that leaves the outcome as it is, such as the name
            of a file whose content counts.
    """

    def convert(value: Any, field: attrs.Attribute) -> Any:
        try:
            if isinstance(default, Choice) and value is not None:
                value = type(default)(value)
            return converter(value)
        except UserError as error:
            raise UserError(f"--{field.name}: {error}.") from None
        except ValueError as error:
            if isinstance(default, Choice):
                raise UserError(f"--{field.name}: {error}.") from None
            raise refusal(field.name, value, checks[0].allowed) from None

    def validate(settings: Any, field: attrs.Attribute, value: Any) -> None:
        for check in (_FINITE, _WHOLE, *checks):
            settings.require(field.name, value is None or check.holds(value), check[1])

    metadata = {
        "help": help_text,
        "flag": flag,
        "repeated": repeated,
        "decisive": decisive,
    }
    return attrs.field(
        default=default,
        converter=attrs.Converter(convert, takes_field=True),
        validator=validate,
        metadata=metadata,
    )


def path_setting(default: Any, help_text: str, *checks: Check, **options: Any) -> Any:
    """Declares a field of settings that is a path, or several; see `setting`."""
    return setting(default, help_text, *checks, converter=_expanded, **options)


def _expanded(paths: Any) -> Any:
    if isinstance(paths, tuple):
        return tuple(map(expanded, paths))
    return paths if paths is None else expanded(paths)


def refusal(name: str, value: Any, allowed: str) -> UserError:
    """Returns the error that names a flag, its value and what is allowed."""
    shown = shown_default(value) if isinstance(value, tuple) else value
    return UserError(f"--{name} is {shown}; it must be {allowed}.")


@attrs.frozen
class Settings:
    """Base of the settings: what determines a run's outcome, one field a flag.

    A subclass declares its fields by `setting`, and checks those that depend on one
    another in `check`.

    Attributes:
        headings: by the first field of each group, the group's name.

    Raises:
        UserError: a value is out of range.
    """

    headings: ClassVar[Mapping[str, str]] = {}

    def __attrs_post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raises UserError where fields do not go together."""

    def require(self, name: str, holds: bool, allowed: str) -> None:
        """Raises UserError, saying what a field is and what is allowed."""
        if not holds:
            raise refusal(name, getattr(self, name), allowed)

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings as JSON types, a radius as its text."""
        return json.loads(json.dumps(attrs.asdict(self, value_serializer=_as_text)))

    def decisive(self) -> dict[str, Any]:
        """Returns the settings that determine the outcome, however they are spelt."""
        return self._decisive(self.to_dict())

    def _decisive(self, values: Mapping[str, Any]) -> dict[str, Any]:
        fields = attrs.fields_dict(type(self))
        return {
            name: _unspelt(fields.get(name), value)
            for name, value in values.items()
            if name not in fields or fields[name].metadata["decisive"]
        }

    def differences(self, there: Mapping[str, Any]) -> list[str]:
        """Returns a phrase for each difference from a run's recorded settings.

        There is none where all that differs leaves the outcome as it is.

        Args:
            there: what `to_dict` gave.

        Raises:
            ValueError: a radius there is none.
        """
        here = self.to_dict()
        if not differences(self._decisive(there), self._decisive(here)):
            return []
        return differences(there, here)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Returns the settings that `to_dict` gave.

        Raises:
            UserError: a value is out of range.
            ValueError, TypeError: they are not of this class.
        """
        fields = attrs.fields_dict(cls)
        # Earlier versions had fewer; what is new changes nothing by default.
        needed = {name for name, field in fields.items() if field.default is not None}
        if not needed <= set(values) <= set(fields):
            raise ValueError("its entries are others")
        return cls(**{n: typed_value(fields[n], value) for n, value in values.items()})


def _as_text(settings: Any, field: Any, value: Any) -> Any:
    return str(value) if isinstance(value, Radius) else value


def _unspelt(field: attrs.Attribute | None, value: Any) -> Any:
    """A value of JSON types, the same for all spellings of a radius or a path."""
    if isinstance(value, list):
        return [_unspelt(field, each) for each in value]
    if field is None or not isinstance(value, str):
        return value
    if Radius in (kind := value_type(field), *get_args(kind)):
        return float(Radius(value))
    return normal_path(value) if field.name == "dataset" else value


def value_type(field: attrs.Attribute) -> Any:
    """Returns the type of a field's values but None: a class or tuple[..., ...]."""
    kinds = [kind for kind in get_args(field.type) if kind is not type(None)]
    return kinds[0] if isinstance(field.type, UnionType) else field.type


def typed_value(field: attrs.Attribute, value: Any) -> Any:
    """Returns a value of a field from its JSON type: a list or the value of an enum.

    Raises:
        UserError: it has another type, or an enum has no such value.
    """
    kind = value_type(field)
    if value is None and type(None) in get_args(field.type):
        return None
    if get_origin(kind) is not tuple:
        return _typed(field, kind, value)
    if not isinstance(value, list | tuple):
        raise refusal(field.name, value, "a list")
    return tuple(_typed(field, get_args(kind)[0], each) for each in value)


def _typed(field: attrs.Attribute, kind: Any, value: Any) -> Any:
    if issubclass(kind, enum.Enum):
        try:
            return kind(value)
        except ValueError:
            allowed = f"one of {', '.join(kind)}{instead_of(value)}"
            raise refusal(field.name, value, allowed) from None
    types, allowed = _TYPES[kind]
    if isinstance(value, bool) is not (kind is bool) or not isinstance(value, types):
        raise refusal(field.name, value, allowed)
    return value


# Of each kind of value, the types that JSON or a caller may give it, and their name.
_TYPES: Mapping[Any, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    int: ((numbers.Integral,), "a whole number"),
    float: ((numbers.Real,), "a number"),
    Radius: ((numbers.Real, str), "a number or a fraction such as 8/255"),
    str: ((str,), "a text"),
}


def instead_of(value: Any) -> str:
    """Returns what serves in place of a value that earlier versions had, if any."""
    replaced = isinstance(value, str) and value in _REPLACED
    return f" ({_REPLACED[value]} serves as well)" if replaced else ""


_REPLACED = {"mixed_float16": "mixed_bfloat16"}


def settings_table(
    kind: type[Settings], defaults: Mapping[str, str] | None = None
) -> str:
    """Returns a Markdown table of the flags of settings: name, default and meaning.

    Args:
        kind: the class of the settings.
        defaults: by name, where they are not those of the fields.
    """
    rows = ["| flag | default | meaning |", "|---|---|---|"]
    for field in flag_fields(kind):
        default = (defaults or {}).get(field.name, shown_default(field.default))
        text = field.metadata["help"].replace("|", "\\|")
        rows.append(f"| `--{field.name}` | {default} | {text} |")
    return "\n".join(rows)


def flag_fields(kind: type[Settings]) -> list[attrs.Attribute]:
    """Returns the fields that have a flag."""
    return [field for field in attrs.fields(kind) if field.metadata["flag"]]


def shown_default(value: Any) -> str:
    """Returns a default as one would write it after the flag's name."""
    if value is None or value in ("", ()):
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


# Where one of these is, a run has been.
_OF_RUNS = (
    "environment.json",
    "dataset.json",
    "checkpoints",
    "trials",
    "measured",
    "stages.json",
)


def record_settings(settings: Settings, workdir: Path) -> None:
    """Writes settings.json, or compares with the one that is there.

    Beside it environment.json says whether oneDNN's kernels are on, which changes speed
    and rounding alone: another machine may resume the run.

    Raises:
        AnotherRunError: the folder holds a run with other settings; the message shows
            the difference.
        UserError: the folder cannot be used.
    """
    path, environment = workdir / "settings.json", workdir / "environment.json"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            if any((workdir / name).exists() for name in _OF_RUNS):
                raise ValueError("it is gone")
            record_command(workdir)
            write_json(path, settings.to_dict())
        recorded = read_json(path)
        if not isinstance(recorded, dict):
            raise ValueError("it holds no settings")
        # Nothing changes, but a folder that cannot be written is noticed now.
        write_text(path, path.read_text())
        if not (different := settings.differences(recorded)):
            write_json(environment, {"onednn": onednn_is_on()})
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}). Copy it there again, or give another "
            "--workdir."
        ) from None
    except OSError as error:
        raise unusable(workdir, error) from None
    if different:
        raise AnotherRunError(
            f"{workdir} holds a run with other settings: {'; '.join(different)}. "
            "Give another --workdir, or the same settings to resume."
        )


def unusable(workdir: Path, error: OSError) -> UserError:
    """Returns the error of a folder that a run cannot write to, before it begins."""
    return UserError(
        f"Cannot use the workdir {workdir}: {error.strerror}. Give a folder that can "
        "be written, --workdir=PATH."
    )


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Returns a phrase for each difference between settings as JSON types."""
    return [
        f"{name} is {there.get(name)!r} there and {here.get(name)!r} here"
        for name in sorted({*there, *here})
        if there.get(name) != here.get(name)
    ]
