import subprocess
import sys

import pytest

from advrush_tf.runs.command import read_command
from advrush_tf.runs.search_settings import SearchSettings
from advrush_tf.runs.settings import record_settings

ARGUMENTS = ["--dataset=my data/$HOME/it's", "--epochs=3", "--noaugment"]


def _start(monkeypatch, workdir, *argv):
    monkeypatch.setattr(sys, "argv", list(argv))
    record_settings(SearchSettings(), workdir)


def test_a_shell_reads_the_words_of_the_first_start(monkeypatch, tmp_path):
    _start(monkeypatch, tmp_path, "launch/search.py", *ARGUMENTS)
    _start(monkeypatch, tmp_path, "launch/search.py", "--workdir=elsewhere")
    command = read_command(tmp_path)
    assert command.startswith("python launch/search.py ")
    script = f'python() {{ printf "%s\\0" "$@"; }}\n{command}'
    result = subprocess.run(["sh", "-c", script], capture_output=True, check=True)
    words = result.stdout.decode().removesuffix("\0").split("\0")
    assert words == ["launch/search.py", *ARGUMENTS]


@pytest.mark.parametrize("program", ["", "-c", "my_experiment.py", "/bin/pytest"])
def test_a_run_of_another_program_has_no_command(monkeypatch, tmp_path, program):
    _start(monkeypatch, tmp_path, program, "--epochs=3")
    assert read_command(tmp_path) == ""
    assert not (tmp_path / "command.txt").exists()


def test_a_folder_of_an_older_version_is_left_without_one(monkeypatch, tmp_path):
    _start(monkeypatch, tmp_path, "my_experiment.py")
    _start(monkeypatch, tmp_path, "launch/search.py")
    assert read_command(tmp_path) == ""
