"""Files that are either complete or not there."""

import os
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically.

    Args:
        path: the file; its folder exists.
        text: what it will hold.

    Raises:
        OSError: it could not be written; an earlier file of that name is untouched.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
