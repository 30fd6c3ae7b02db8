import numpy as np

from advrush_tf.runs.table import Table, accuracy_text, mean_text, share_text
from advrush_tf.statistics import wilson


def test_markdown_has_a_caption_a_head_and_a_line_a_row():
    table = Table("Scores", ("model", "a"), [("x|y", "1"), ("z", "")])
    assert table.markdown().splitlines() == [
        "Scores:",
        "",
        "| model | a |",
        "|---|---|",
        r"| x\|y | 1 |",
        "| z |  |",
    ]


def test_numbers_are_shown_with_their_intervals():
    mean = {"mean": 3.14159, "low": 3, "high": 1234.5, "median": 3}
    assert mean_text(mean) == "3.14 (3 to 1.23e+03)"
    low, high = wilson(101, 200)
    expected = f"50.50% ({low:.2%} to {high:.2%})"
    # As a single-precision mean gives it.
    assert accuracy_text(float(np.float32(0.505)), 200) == expected
    assert share_text({"accuracy": 0.505, "interval": [low, high]}) == expected
