import functools
import os
import signal
import subprocess
import sys

import attrs
import pytest
import tensorflow as tf
from absl import flags

from advrush_tf.attacks.geometry import Radius
from advrush_tf.errors import NonFiniteLossError, UserError
from advrush_tf.runs.flags import (
    define_data_dir,
    define_paths,
    define_settings,
    define_workdir,
    parse_flags,
    run,
)
from advrush_tf.runs.settings import RADIUS, Precision, Settings, gt, setting
from support.processes import ROOT


@pytest.fixture(autouse=True)
def _interruptible(monkeypatch):
    """Leaves Ctrl-C to pytest."""
    monkeypatch.setattr(signal, "signal", lambda *given: None)


@pytest.fixture
def values(monkeypatch):
    """Flags of this test alone: those that it defines and those that it parses."""
    values = flags.FlagValues()
    for name in (
        *(
            "DEFINE",
            "DEFINE_bool",
            "DEFINE_list",
            "DEFINE_multi",
            "DEFINE_multi_string",
        ),
        "register_validator",
    ):
        define = functools.partial(getattr(flags, name), flag_values=values)
        monkeypatch.setattr(flags, name, define)
    monkeypatch.setattr(flags, "FLAGS", values)
    return values


@attrs.frozen
class Shape(Settings):
    """A setting of each type."""

    sides: int = setting(3, "Number of sides.", gt(2))
    radius: float | None = setting(None, "A radius.")
    radii: tuple[float, ...] = setting((0.5,), "Some radii.")
    ball: Radius = setting("8/255", "Its radius.", RADIUS, converter=Radius)
    names: tuple[str, ...] = setting(("a", "b"), "Some names.")
    part: tuple[str, ...] = setting((), "Parts, may be repeated.", repeated=True)
    title: str | None = setting("square", "A title.")
    filled: bool = setting(True, "Filled or not.")
    precision: Precision | None = setting(Precision.FLOAT32, "Its arithmetic.")
    found: str = setting("", "Not for users.", flag=False)


@pytest.fixture
def numbers(values):
    define_settings(Shape, {"radii": "one half"})
    return values


@pytest.fixture
def given(values):
    """Gives the settings that flags describe."""
    read = define_settings(Shape)

    def parse(*arguments):
        parse_flags(["program", *arguments])
        return Shape(**read())

    return parse


def test_flags_have_the_defaults_of_the_settings(given):
    assert given() == Shape()


def test_flags_of_every_type(given):
    names = ["--names=c,d", "--part=1", "--part=2", "--title=t", "--nofilled"]
    numbers = ["--sides=5", "--radius=1/4", "--radii=1,2/4"]
    shape = given(*names, *numbers, "--ball=2/8", "--precision=FLOAT64")
    assert str(shape.ball) == "2/8"
    assert shape == Shape(
        sides=5,
        radius=0.25,
        radii=(1.0, 0.5),
        ball=0.25,
        names=("c", "d"),
        part=("1", "2"),
        title="t",
        filled=False,
        precision=Precision.FLOAT64,
    )


def test_flags_of_a_recipe_are_none_and_name_its_values(values):
    read = define_settings(Shape, {"sides": "the recipe's", "names": "none"})
    parse_flags(["program"])
    assert {"sides": None, "names": None, "title": "square"}.items() <= read().items()
    assert values["sides"].help == "Number of sides. By default the recipe's."


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--precision=half", "<float32|mixed_bfloat16|float64>"),
        ("--precision=mixed_float16", "(mixed_bfloat16 serves as well)"),
        ("--sides=x", "--sides"),
        ("--found=x", "Unknown command line flag 'found'"),
    ],
)
def test_flags_that_cannot_be_read_are_one_line(given, argument, words, capsys):
    with pytest.raises(SystemExit) as stop:
        given(argument)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert words in error


def test_paths_begin_in_the_home_folder(values, monkeypatch, capsys):
    monkeypatch.setenv("HOME", "/home/me")
    define_workdir("runs/x")
    define_data_dir()
    define_paths("run", "Runs.")
    names = ["--workdir=~/a", "--data_dir=~", "--run=~/b", "--run=c"]
    parse_flags(["program", *names])
    assert (values.workdir, values.data_dir) == ("/home/me/a", "/home/me")
    assert values.run == ["/home/me/b", "c"]
    with pytest.raises(SystemExit):
        parse_flags(["program", "--workdir=~nosuchuser/x"])
    (line,) = capsys.readouterr().err.splitlines()
    assert "--workdir" in line and "write ./~nosuchuser/x for a folder" in line


def test_flags_are_set_and_the_rest_is_returned(numbers):
    assert parse_flags(["program", "--sides=5", "rest"]) == ["program", "rest"]
    assert numbers.sides == 5


@pytest.mark.parametrize("argument", ["--sides=x", "--edges=2"])
def test_a_wrong_flag_is_one_line_and_code_2(numbers, argument, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_flags(["program", argument])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("8/255", 8 / 255),
        ("0.031", 0.031),
        ("-1/4", -0.25),
        ("1e-3", 1e-3),
        (" 2 ", 2.0),
        ("0", 0.0),
    ],
)
def test_a_number_may_be_a_fraction(numbers, text, number):
    parse_flags(["program", f"--radius={text}"])
    assert numbers.radius == number
    assert isinstance(numbers.radius, float)


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("8/255", (8 / 255,)),
        ("2/255,0.031, 8/255", (2 / 255, 0.031, 8 / 255)),
        ("0.5,", (0.5,)),
    ],
)
def test_numbers_are_separated_by_commas(numbers, text, given):
    parse_flags(["program", f"--radii={text}"])
    assert numbers.radii == given


def test_a_number_is_none_unless_it_is_given(numbers):
    parse_flags(["program"])
    assert numbers.radius is None
    assert numbers.radii is None


WRONG = ("1/0", "abc", "8/", "1/2/3", "0.5,x", "1/x", "9" * 400 + "/1")


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        *(("radius", text, "a number or a fraction such as 8/255") for text in WRONG),
        *(
            ("radii", text, "numbers or fractions separated by commas")
            for text in WRONG
        ),
        ("radius", "", "a number or a fraction"),
        ("radius", "1,2", "a number or a fraction"),
        ("radii", "1/255 8/255", "separated by commas"),
    ],
    ids=lambda value: value[:9],
)
def test_what_is_no_number_is_one_line(numbers, name, text, wanted, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_flags(["program", f"--{name}={text}"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"--{name}" in error and wanted in error


def test_the_help_says_what_is_wanted(numbers):
    text = numbers.get_help()
    assert "--radius" in text and "a number or a fraction such as 8/255" in text
    assert "--radii" in text and "separated by commas" in text


def _ending(monkeypatch, capsys, body, *arguments):
    """Runs a launcher; gives its exit code and what it printed to stderr."""
    monkeypatch.setattr(sys, "argv", ["program", *arguments])
    with pytest.raises(SystemExit) as stop:
        run(body)
    return stop.value.code, capsys.readouterr().err


def _raising(error):
    def body():
        raise error

    return body


def test_a_run_without_errors_ends_with_code_0(monkeypatch, capsys):
    calls = []
    ending = _ending(monkeypatch, capsys, lambda: calls.append("called"))
    assert ending == (0, "")
    assert calls == ["called"]


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("Give a number."), 2, "error: Give a number.\n"),
        (
            NonFiniteLossError("loss became nan"),
            1,
            "error: loss became nan; what was saved before is kept.\n",
        ),
    ],
)
def test_errors_are_one_line_and_a_code(monkeypatch, capsys, error, code, line):
    assert _ending(monkeypatch, capsys, _raising(error)) == (code, line)


# An exception in a callback is lost; one while the interpreter ends is shown. Both are
# forked from one process, for what it has imported.
INTERRUPTED = f"""
import atexit, os, signal
from advrush_tf.runs.flags import define_workdir, run

# Shells make what they start in the background ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)

def interrupt(*given):
    os.kill(os.getpid(), {signal.SIGINT:d})

class Callback:
    __del__ = interrupt

define_workdir("runs/x")
if process := os.fork():
    _, status = os.waitpid(process, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
    os.write(2, b"second\\n")
    atexit.register(interrupt)
    Callback = list
run(lambda: Callback() and None)
"""


def test_an_interruption_is_one_line_and_code_130_and_none_after_the_end(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, f"--workdir={tmp_path}"],
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert result.stdout == "130\n"
    first, second = result.stderr.split("second\n")
    assert first.splitlines()[-1] == (
        f"interrupted: what was saved in {tmp_path} is kept, and the same command goes "
        "on there."
    )
    assert "Exception" not in first
    assert result.returncode == 0
    assert "interrupted" not in second


@pytest.mark.parametrize(
    "error",
    [MemoryError("8 EiB"), tf.errors.ResourceExhaustedError(None, None, "OOM")],
    ids=lambda error: type(error).__name__,
)
def test_too_little_memory_is_one_line(monkeypatch, capsys, error):
    code, line = _ending(monkeypatch, capsys, _raising(error))
    assert code == 2
    assert line.startswith(f"error: there is not enough memory ({type(error).__name__}")
    assert line.count("\n") == 1


def test_an_argument_that_is_no_flag_is_refused_before_anything_runs(
    monkeypatch, capsys
):
    body = _raising(AssertionError("it ran"))
    code, line = _ending(monkeypatch, capsys, body, "digits")
    assert code == 2
    assert line == "error: unexpected argument 'digits'; all options are flags.\n"


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["program"])
    with pytest.raises(KeyError):
        run(_raising(KeyError("a bug")))
