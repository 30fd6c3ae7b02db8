import pytest

from advrush_tf import errors


def test_is_a_value_error_that_carries_its_sentence():
    with pytest.raises(ValueError, match=r"^Give a positive number\.$"):
        raise errors.UserError("Give a positive number.")


def test_an_error_is_told_in_one_short_line():
    assert errors.one_line(KeyError()) == "KeyError"
    text = errors.one_line(ValueError("word " * 100 + "\nsecond line"))
    assert text.startswith("ValueError: word word")
    assert text.endswith("...")
    assert len(text) == 200
