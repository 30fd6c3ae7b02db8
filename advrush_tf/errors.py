"""The errors that a launcher turns into one line, and closed sets that raise them."""

import enum
import re
from typing import Any

_MAX_CHARACTERS = 200
_LONGEST_LINE = 500
# Where in a graph TensorFlow's error arose.
_NODES = re.compile(r"\{\{[^}]*\}\}\s*")


class Choice(enum.StrEnum):
    """Base of closed sets, whose values are understood wherever a member is.

    Raises:
        ValueError: there is no such value; the message names all.
    """

    @classmethod
    def _missing_(cls, value: Any) -> Any:
        values = ", ".join(repr(member.value) for member in cls)
        name = cls.__name__.lower()
        raise ValueError(f"{name} must be one of {values}, not {value!r}")


class UserError(ValueError):
    """A mistake that the user can correct, described in one sentence.

    Launchers print the message without a traceback and exit with code 2.
    """


class AnotherRunError(UserError):
    """A folder holds a run that was made of something else."""


class WorkerLostError(RuntimeError):
    """A run on many machines ended because one of its workers did.

    Launchers print the message without a traceback and exit with code 1.
    """


class NonFiniteLossError(ArithmeticError):
    """A loss, a derivative or a weight is NaN or infinite.

    Launchers print the message without a traceback and exit with code 1.
    """


def short_line(sentence: str) -> str:
    """Returns a sentence on one line, without its middle where it is very long."""
    line = " ".join(_NODES.sub("", sentence).split())
    if len(line) <= _LONGEST_LINE:
        return line
    half = _LONGEST_LINE // 2
    return f"{line[:half]} ... {line[-half:]}"


def one_line(error: BaseException) -> str:
    """Returns an exception's kind and the start of its message, on one line."""
    lines = _NODES.sub("", str(error)).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    if len(text) > _MAX_CHARACTERS:
        text = text[: _MAX_CHARACTERS - 3] + "..."
    return text
