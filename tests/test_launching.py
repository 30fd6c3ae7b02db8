import pytest
from absl import flags

from advrush_tf.launching import parse_flags


@pytest.fixture
def sides(monkeypatch):
    values = flags.FlagValues()
    flags.DEFINE_integer("sides", 3, "", lower_bound=3, flag_values=values)
    monkeypatch.setattr(flags, "FLAGS", values)
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
