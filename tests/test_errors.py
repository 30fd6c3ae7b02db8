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


def test_a_sentence_is_one_line_without_graph_nodes_and_without_a_long_middle():
    assert errors.short_line("Give\n a {{function_node f}} {{node g}} number.") == (
        "Give a number."
    )
    line = errors.short_line("begin " + "x" * 5000 + " end")
    assert len(line) < 510
    assert line.startswith("begin x") and line.endswith("x end") and " ... " in line
