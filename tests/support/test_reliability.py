"""The fast part of the tables of bad input; all of them are tried by hand."""

import subprocess

import pytest

from support.reliability import (
    fault_of,
    file_cases,
    flag_cases,
    hostile_cases,
    tried,
)

# One damage of each file, one bad value of each path, one bomb.
FAST = [
    *(case for case in file_cases() if case.name.endswith("is 300 levels")),
    *(
        case
        for case in flag_cases()
        if case.name.endswith(("dir is no user", "model is no user", "run is no user"))
    ),
    hostile_cases()[0],
]


@pytest.mark.parametrize("case", FAST, ids=lambda case: f"{case.launcher} {case.name}")
def test_bad_input_is_one_line(case, tmp_path):
    ending = tried(case, tmp_path)
    assert ending.returncode == 2
    assert fault_of(ending) is None


@pytest.mark.parametrize(
    ("code", "errors", "fault"),
    [
        (2, "error: no.\n", None),
        (0, "", None),
        (-9, "", None),
        (1, "Traceback ...\nKeyError: 1\n", "traceback: KeyError: 1"),
        (-11, "", "exit code -11"),
        (2, "error: a\nb\n", "2 lines"),
        (2, "error: {{node x}}\n", "1 lines"),
        (2, "x" * 700, "1 lines"),
    ],
)
def test_faults_are_noticed(code, errors, fault):
    found = fault_of(subprocess.CompletedProcess("search", code, "", errors))
    assert found is None if fault is None else found.startswith(fault)
