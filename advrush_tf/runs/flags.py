"""Launchers: flags from settings, numbers like 8/255, and failing in one line."""

import atexit
import contextlib
import enum
import os
import signal
import sys
import textwrap
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

import attrs
import tensorflow as tf
from absl import app, flags

from advrush_tf.attacks.geometry import Radius, read_number
from advrush_tf.errors import (
    NonFiniteLossError,
    UserError,
    WorkerLostError,
    one_line,
    short_line,
)
from advrush_tf.files import expanded
from advrush_tf.runs.devices import Devices, StrategyName
from advrush_tf.runs.progress import print_line
from advrush_tf.runs.settings import (
    Settings,
    flag_fields,
    instead_of,
    value_type,
)

# `--help` of a launcher lists what is defined here as that launcher's flags.
flags.disclaim_key_flags()

_HELP = {"-h", "-help", "--help", "--helpshort"}


def run(
    body: Callable[[], object],
    quietly: Callable[[], AbstractContextManager] = nullcontext,
) -> None:
    """Runs a launcher, and ends the program with its exit code.

    A mistake of the user's, in a flag or later, is one line and code 2; a loss that
    is not finite, or a worker that is gone, is one line and code 1; Ctrl-C is one line
    and code 130. `--help` prints the flags of the module that `body` is of, and ends
    with code 0.

    Args:
        body: what the program does once the flags are set.
        quietly: a context in which TensorFlow looks for the machine's devices.
    """

    def look() -> None:
        with quietly():
            tf.config.list_physical_devices()

    def start(argv: list[str]) -> None:
        if len(argv) > 1:
            raise UserError(f"unexpected argument '{argv[1]}'; all options are flags.")
        body()

    if _HELP & {*sys.argv[1:]}:
        print_line(_help(sys.modules[body.__module__]))
        sys.exit(0)
    _end_when_interrupted()
    # Else TensorFlow looks when absl starts, loudly.
    if code := _exit_code(look):
        sys.exit(code)
    app.run(lambda argv: _exit_code(lambda: start(argv)), flags_parser=parse_flags)


def _exit_code(start: Callable[[], None]) -> int:
    try:
        start()
    except Exception as error:
        return _end(error)
    return 0


def _end_when_interrupted() -> None:
    """Lets Ctrl-C end the program at once, with one line, until it has ended anyway.

    An exception would become another one within TensorFlow, or be lost in a callback.
    What runs write survives a sudden end.
    """
    terminal = os.dup(2)  # It may be held back later.

    def end(number: int, frame: object) -> None:
        # Where a progress bar stands, it is erased.
        erase = "\r\033[K" if os.isatty(terminal) else ""
        os.write(terminal, f"{erase}interrupted{_kept()}.\n".encode())
        os._exit(130)

    # A program in the background may have been set to ignore it.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, end)
        # All is done when Python itself ends, which would let it end that speechless.
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)


def _end(error: Exception) -> int:
    """Prints the line of an error and returns its exit code, or raises a fault."""
    match error:
        case UserError():
            return _failed(str(error), 2)
        case NonFiniteLossError():
            return _failed(f"{error}; what was saved before is kept.", 1)
        case MemoryError() | tf.errors.ResourceExhaustedError():
            return _failed(
                f"there is not enough memory ({one_line(error)}); a smaller network or "
                "batch needs less, and what was saved before is kept.",
                2,
            )
        case WorkerLostError():
            _exit_at_once(_failed(f"{error}.", 1))
    raise error


def _kept() -> str:
    """Returns what an interrupted launcher leaves, in words."""
    workdir = flags.FLAGS["workdir"].value if "workdir" in flags.FLAGS else None
    if workdir is None or not os.path.isdir(workdir):
        return ""
    return f": what was saved in {workdir} is kept, and the same command goes on there"


def _exit_at_once(code: int) -> None:
    """Ends the program without an orderly end.

    Threads may wait for a lost worker for ever.
    """
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _failed(sentence: str, code: int) -> int:
    print(short_line(f"error: {sentence}"), file=sys.stderr)
    return code


def parse_flags(argv: list[str]) -> list[str]:
    """Parses absl flags; a wrong one ends the program with one line and code 2.

    Returns:
        The arguments that are not flags.
    """
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        sys.exit(_failed(str(error), 2))


def define_path(
    name: str, default: str | None, help_text: str, **options: Any
) -> flags.FlagHolder[str]:
    """Defines a flag whose value is a path; a leading `~` is the home folder."""
    return flags.DEFINE(_PathParser(), name, default, help_text, **options)


def define_paths(name: str, help_text: str) -> flags.FlagHolder[list[str]]:
    """Defines a flag whose values are paths, one each time that it is given."""
    serializer: flags.ArgumentSerializer[str] = flags.ArgumentSerializer()
    return flags.DEFINE_multi(_PathParser(), serializer, name, [], help_text)


def define_workdir(default: str) -> flags.FlagHolder[str]:
    """Defines --workdir, which must not be empty: that would be the current folder."""
    holder = define_path(
        "workdir", default, "Folder for all results; an earlier run there resumes."
    )
    flags.register_validator(holder, bool, "it must name a folder")
    return holder


def define_data_dir() -> flags.FlagHolder[str | None]:
    """Defines --data_dir."""
    return define_path(
        "data_dir", None, "tfds' folder of prepared data sets; by default tfds' own."
    )


def define_devices(
    quietly: Callable[[], AbstractContextManager] = nullcontext,
) -> Callable[[], Devices]:
    """Defines --strategy and --virtual_cpus.

    Args:
        quietly: a context in which TensorFlow makes its devices.

    Returns:
        A function that makes the devices that the flags name.
    """
    strategy = flags.DEFINE_enum_class(
        "strategy",
        StrategyName.NONE,
        StrategyName,
        "One device, all GPUs of this machine, or the machines that TF_CONFIG names.",
    )
    virtual_cpus = flags.DEFINE_integer(
        "virtual_cpus",
        0,
        "Divide the processor into so many devices, to try a strategy without GPUs.",
        lower_bound=0,
        upper_bound=1024,
    )
    flags.register_multi_flags_validator(
        [strategy.name, virtual_cpus.name],
        lambda values: (
            not values[virtual_cpus.name]
            or values[strategy.name] is StrategyName.MIRRORED
        ),
        "--virtual_cpus is for --strategy=mirrored",
    )

    def make() -> Devices:
        # A worker that waits in vain for others is ended from within.
        alone = strategy.value is not StrategyName.MULTIWORKER
        with quietly() if alone else nullcontext():
            devices = Devices(strategy.value, virtual_cpus.value)
            tf.config.list_logical_devices()
        return devices

    return make


def define_dry_run(run: str) -> flags.FlagHolder[bool]:
    """Defines --dry_run, which goes with one device; --strategy is there already.

    Args:
        run: what is measured, in a word.
    """
    holder = flags.DEFINE_bool(
        "dry_run", False, f"Only measure and print what the {run} would cost."
    )
    flags.register_multi_flags_validator(
        [holder.name, "strategy"],
        lambda values: (
            not values[holder.name] or values["strategy"] is StrategyName.NONE
        ),
        "--dry_run measures on one device; leave out --strategy",
    )
    return holder


def define_settings(
    kind: type[Settings],
    defaults: Mapping[str, str] | None = None,
    prefix: str = "",
    without: Collection[str] = (),
) -> Callable[[], dict[str, Any]]:
    """Defines the flags of settings: one for each field, with its default and help.

    Args:
        kind: the class of the settings.
        defaults: by name, the defaults in words of fields that are None unless given.
        prefix: what the flags' names begin with.
        without: names of fields that get no flag.

    Returns:
        A function that gives the values of the flags, by the fields' names.
    """
    heading, stage = "", prefix.rstrip("_").capitalize()
    fields = [field for field in flag_fields(kind) if field.name not in without]
    for field in attrs.fields(kind):
        heading = kind.headings.get(field.name, heading)
        _HEADINGS[prefix + field.name] = f"{stage}: {heading}" if stage else heading
    for field in fields:
        words = (defaults or {}).get(field.name)
        default = field.default if words is None else None
        note = "" if words is None else f" By default {words}."
        help_text = field.metadata["help"] + note
        _define(field, prefix + field.name, default, help_text)

    def values() -> dict[str, Any]:
        given = {field.name: flags.FLAGS[prefix + field.name].value for field in fields}
        return {n: tuple(v) if isinstance(v, list) else v for n, v in given.items()}

    return values


# By the flag's name, what `--help` has above it.
_HEADINGS: dict[str, str] = {}


def _help(module: ModuleType) -> str:
    """Returns the help of a launcher: its own flags, with their defaults, in groups."""
    groups: dict[str, list[str]] = {}
    for flag in flags.FLAGS.get_flags_for_module(module):
        default = (flag.default_as_str or "").strip("'\"")
        name = f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}"
        given = f"  ({default})" if flag.boolean else f"={default}"
        text = textwrap.indent(textwrap.fill(flag.help, 82), 6 * " ")
        entry = f"  {name}{given}\n{text}"
        groups.setdefault(_HEADINGS.get(flag.name, "Run"), []).append(entry)
    parts = [f"{name}\n" + "\n".join(entries) for name, entries in groups.items()]
    return "\n\n".join([module.__doc__ or "", *parts])


def _define(field: attrs.Attribute, name: str, default: Any, help_text: str) -> None:
    """Defines the flag of one field, by the type of its values."""
    kind = value_type(field)
    default = list(default) if isinstance(default, tuple) else default
    if field.metadata["repeated"]:
        flags.DEFINE_multi_string(name, default, help_text)
    elif kind is bool:
        flags.DEFINE_bool(name, default, help_text)
    elif kind in (tuple[str, ...], tuple[Radius, ...]):
        flags.DEFINE_list(name, default, help_text)
    elif isinstance(kind, type) and issubclass(kind, enum.Enum):
        names = "|".join(kind.__members__).lower()
        flags.DEFINE(_ChoiceParser(kind), name, default, f"<{names}>: {help_text}")
    else:
        flags.DEFINE(_PARSERS[kind](), name, default, help_text)


class _ChoiceParser(flags.EnumClassParser):
    """Reads the name of an enum's member."""

    def __init__(self, kind: type[enum.Enum]):
        super().__init__(kind, case_sensitive=False)

    def parse(self, argument: Any) -> enum.Enum:
        try:
            return super().parse(argument)
        except ValueError as error:
            raise ValueError(f"{error}{instead_of(argument)}") from None


class _PathParser(flags.ArgumentParser):
    """Reads a path."""

    def parse(self, argument: str) -> str:
        return expanded(argument)


class _NumberParser(flags.ArgumentParser):
    """Reads a number, also as a fraction."""

    syntactic_help = "a number or a fraction such as 8/255"

    def parse(self, argument: str | float) -> float:
        if isinstance(argument, float | int):
            return float(argument)
        try:
            return read_number(argument.strip())
        except ValueError:
            raise ValueError(f"it must be {self.syntactic_help}") from None

    def flag_type(self) -> str:
        return "number"


class _NumbersParser(_NumberParser):
    """Reads numbers separated by commas."""

    syntactic_help = "numbers or fractions separated by commas"

    def parse(self, argument):
        if not isinstance(argument, str):
            return tuple(argument)
        parts = [part for part in argument.split(",") if part.strip()]
        return tuple(super(_NumbersParser, self).parse(part) for part in parts)


_PARSERS = {
    int: flags.IntegerParser,
    str: flags.ArgumentParser,
    # The settings read its text, and remember it.
    Radius: flags.ArgumentParser,
    float: _NumberParser,
    tuple[float, ...]: _NumbersParser,
}
