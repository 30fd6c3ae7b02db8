"""What all launchers share: flags that fail in one line, and numbers like 8/255."""

import sys
from fractions import Fraction

from absl import flags


def parse_flags(argv: list[str]) -> list[str]:
    """Parses absl flags; a wrong one ends the program with one line and code 2.

    Returns:
        The arguments that are not flags.
    """
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


class _NumberParser(flags.ArgumentParser):
    """Reads a number, also as a fraction."""

    syntactic_help = "a number or a fraction such as 8/255"

    def parse(self, argument: str | float) -> float:
        if isinstance(argument, float | int):
            return float(argument)
        text = argument.strip()
        try:
            return float(Fraction(text)) if "/" in text else float(text)
        except (ValueError, ArithmeticError):
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


def define_number(name: str, help_text: str) -> None:
    """Defines a flag that takes a number or a fraction; it is None if not given."""
    flags.DEFINE(_NumberParser(), name, None, help_text)


def define_numbers(name: str, help_text: str) -> None:
    """Defines a flag that takes numbers or fractions separated by commas, or None."""
    flags.DEFINE(_NumbersParser(), name, None, help_text)
