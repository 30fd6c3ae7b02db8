import json

import numpy as np
import pytest

from advrush_tf import jsonable

VALUE = {"a": [1, [2.5, None]], "b": {"c": "x", "d": []}, "e": True}


def test_freeze_copies_and_thaw_gives_the_same_back():
    source = json.loads(json.dumps(VALUE))
    frozen = jsonable.freeze(source)
    source["a"][1][0] = 7
    assert jsonable.thaw(frozen) == VALUE
    assert frozen["a"] == (1, (2.5, None))
    assert jsonable.freeze(frozen) == frozen


def test_a_frozen_mapping_cannot_be_changed():
    frozen = jsonable.freeze(VALUE)
    with pytest.raises(TypeError):
        frozen["b"]["c"] = "y"


def test_arrays_and_their_scalars_count_as_lists_and_numbers():
    table = np.array([[1, 2], [3, 4]], np.float32)
    frozen = jsonable.freeze({"table": table, "one": np.int64(1)})
    assert jsonable.thaw(frozen) == {"table": [[1.0, 2.0], [3.0, 4.0]], "one": 1}


@pytest.mark.parametrize("value", [object(), {1, 2}, float("nan"), {(1, 2): 3}])
def test_what_json_cannot_hold_is_refused(value):
    with pytest.raises(ValueError, match="JSON cannot hold the value"):
        jsonable.freeze({"x": value})


def test_text_is_json_with_rows_on_lines():
    text = jsonable.json_text({"table": [[1, 2], [3, 4]], "row": [5, 6], "empty": {}})
    assert text.splitlines() == [
        "{",
        '  "table": [',
        "    [1, 2],",
        "    [3, 4]",
        "  ],",
        '  "row": [5, 6],',
        '  "empty": {}',
        "}",
    ]
    assert json.loads(jsonable.json_text(VALUE)) == VALUE
