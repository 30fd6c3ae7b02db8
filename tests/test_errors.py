import pytest

from advrush_tf import errors


def test_is_a_value_error_that_carries_its_sentence():
    with pytest.raises(ValueError, match=r"^Give a positive number\.$"):
        raise errors.UserError("Give a positive number.")
