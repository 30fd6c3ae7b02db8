"""Breaks a copy of the code in ways that still train, and lets the tests find each.

Run by hand, for an hour or so: `python tests/support/mutants.py [NAME ...]`. It ends
with code 1 if a mutant was not found, or fits the code no longer.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]


class Mutant(NamedTuple):
    """One way to break the code.

    Attributes:
        name: what is wrong then.
        file: below the package's folder.
        old, new: the text that is replaced, once in the file, and what replaces it.
        tests: files or folders below tests/ that must find it.
    """

    name: str
    file: str
    old: str
    new: str
    tests: str


def read_mutants():
    """Reads the mutants of mutants.toml."""
    text = Path(__file__).with_suffix(".toml").read_text("utf-8")
    return [Mutant(**values) for values in tomllib.loads(text)["mutant"]]


def _is_found(mutant, copy):
    """Whether the tests fail in a copy of the project that has the mutant."""
    path = copy / "advrush_tf" / mutant.file
    text = path.read_text("utf-8")
    if text.count(mutant.old) != 1:
        sys.exit(f"{mutant.name}: its text is not in {mutant.file} exactly once.")
    path.write_text(text.replace(mutant.old, mutant.new), "utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    tests = [f"tests/{name}" for name in mutant.tests.split()]
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    run = subprocess.run(
        [*command, *tests], cwd=copy, env=environment, capture_output=True, text=True
    )
    path.write_text(text, "utf-8")
    # 1 is a failed test; a collection that breaks (2) has found nothing.
    return run.returncode == 1


def main():
    """Prints each mutant with the outcome."""
    mutants = read_mutants()
    names = set(sys.argv[1:]) or {mutant.name for mutant in mutants}
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "project")
        for top in ("advrush_tf", "launch", "testdata", "tests", "docs"):
            shutil.copytree(ROOT / top, copy / top)
        for name in ("pyproject.toml", "setup.py", "constraints.txt"):
            shutil.copy(ROOT / name, copy)
        for mutant in mutants:
            if mutant.name in names:
                found = _is_found(mutant, copy)
                missed += not found
                print("found " if found else "MISSED", mutant.name, flush=True)
    print(f"{missed} mutants were not found.")
    sys.exit(missed > 0)


if __name__ == "__main__":
    main()
