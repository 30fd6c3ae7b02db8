import functools
import sys

import pytest
from absl import flags

from advrush_tf.errors import NonFiniteLossError, UserError
from advrush_tf.runs.flags import define_number, define_numbers, parse_flags, run


@pytest.fixture
def values(monkeypatch):
    """Flags of this test alone: those that it defines and those that it parses."""
    values = flags.FlagValues()
    define = functools.partial(flags.DEFINE, flag_values=values)
    monkeypatch.setattr(flags, "DEFINE", define)
    monkeypatch.setattr(flags, "FLAGS", values)
    return values


@pytest.fixture
def sides(values):
    flags.DEFINE_integer("sides", 3, "", lower_bound=3, flag_values=values)
    return values


@pytest.fixture
def numbers(values):
    define_number("radius", "A radius.")
    define_numbers("radii", "Some radii.")
    return values


def test_flags_are_set_and_the_rest_is_returned(sides):
    assert parse_flags(["program", "--sides=5", "rest"]) == ["program", "rest"]
    assert sides.sides == 5


@pytest.mark.parametrize("argument", ["--sides=2", "--sides=x", "--edges=2"])
def test_a_wrong_flag_is_one_line_and_code_2(sides, argument, capsys):
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
