import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from advrush_tf.runs.command import launcher_command, read_command, tensorboard_command
from advrush_tf.runs.search_settings import SearchSettings
from advrush_tf.runs.settings import record_settings

ARGUMENTS = ["--dataset=my data/$HOME/it's", "--epochs=3", "--noaugment"]


def _start(monkeypatch, workdir, *argv):
    monkeypatch.setattr(sys, "argv", list(argv))
    record_settings(SearchSettings(), workdir)


def test_a_shell_reads_the_words_of_the_first_start(monkeypatch, tmp_path):
    _start(monkeypatch, tmp_path, "launch/search.py", *ARGUMENTS)
    _start(monkeypatch, tmp_path, "launch/search.py", "--workdir=elsewhere")
    folder, command = read_command(tmp_path).split(" && ")
    assert folder == f"cd {shlex.quote(os.getcwd())}"
    script = f'set -- {command}; printf "%s\\0" "$@"'
    result = subprocess.run(["sh", "-c", script], capture_output=True, check=True)
    python, *words = result.stdout.decode().removesuffix("\0").split("\0")
    assert Path(python).samefile(sys.executable)
    assert words == ["launch/search.py", *ARGUMENTS]


@pytest.mark.parametrize(
    ("program", "start"),
    [
        ("launch/search.py", [sys.executable, "launch/fit.py"]),
        ("/a b/launch/search.py", [sys.executable, "/a b/launch/fit.py"]),
        ("/a b/bin/advrush-search", ["/a b/bin/advrush-fit"]),
        ("my_experiment.py", [sys.executable, "launch/fit.py"]),
    ],
)
def test_the_next_launcher_is_the_one_beside(monkeypatch, program, start):
    monkeypatch.setattr(sys, "argv", [program, "--epochs=3"])
    monkeypatch.setattr(Path, "cwd", lambda: Path("/elsewhere"))
    command = launcher_command("fit", genotype="it's", epochs=3, image_size=None)
    assert shlex.split(command) == [*start, "--genotype=it's", "--epochs=3"]


def test_an_installed_launcher_is_its_own_command(monkeypatch, tmp_path):
    _start(monkeypatch, tmp_path, "/bin/advrush-search", "--epochs=3")
    assert read_command(tmp_path).endswith(" && /bin/advrush-search --epochs=3")


def test_pythons_path_is_short_where_it_lies_in_the_current_folder(monkeypatch):
    python = Path(sys.executable)
    monkeypatch.setattr(Path, "cwd", lambda: python.parents[1])
    words = [str(Path(*python.parts[-2:])), "-m", "tensorboard.main", "--logdir=a b"]
    assert shlex.split(tensorboard_command(Path("a b"))) == words


@pytest.mark.parametrize("program", ["", "-c", "my_experiment.py", "/bin/pytest"])
def test_a_run_of_another_program_has_no_command(monkeypatch, tmp_path, program):
    _start(monkeypatch, tmp_path, program, "--epochs=3")
    assert read_command(tmp_path) == ""
    assert not (tmp_path / "command.txt").exists()


def test_a_folder_of_an_older_version_is_left_without_one(monkeypatch, tmp_path):
    _start(monkeypatch, tmp_path, "my_experiment.py")
    _start(monkeypatch, tmp_path, "launch/search.py")
    assert read_command(tmp_path) == ""
