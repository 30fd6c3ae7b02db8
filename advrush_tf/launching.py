"""What all launchers share: flags that fail in one line."""

import sys

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
