"""What JSON can hold: read-only copies of it, and readable text."""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np


def freeze(value: Any) -> Any:
    """Copies a value into read-only mappings and tuples, all the way down.

    Args:
        value: What JSON can hold: mappings, lists and tuples of text, numbers,
            booleans and None. NumPy arrays and scalars count as lists and numbers.

    Returns:
        The copy; the keys of its mappings are text.

    Raises:
        ValueError: If JSON cannot hold the value; it has no NaN and no infinity.
    """
    try:
        copy = json.loads(json.dumps(value, default=_plain, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"JSON cannot hold the value: {error}.") from None
    return _read_only(copy)


def thaw(value: Any) -> Any:
    """Copies a frozen value into new dictionaries and lists."""
    if isinstance(value, Mapping):
        return {key: thaw(item) for key, item in value.items()}
    return [thaw(item) for item in value] if isinstance(value, tuple) else value


def json_text(value: Any, indent: str = "") -> str:
    """Writes JSON with each row of a table, and each plain list, on one line.

    Args:
        value: Dictionaries, lists, text, numbers, booleans and None.
        indent: Spaces before each line but the first.

    Returns:
        The text, without a line break at its end.
    """
    deeper = indent + "  "
    if isinstance(value, dict) and value:
        rows = [
            f"{json.dumps(key)}: {json_text(item, deeper)}"
            for key, item in value.items()
        ]
    elif isinstance(value, list) and any(isinstance(x, dict | list) for x in value):
        rows = [json_text(item, deeper) for item in value]
    else:
        return json.dumps(value)
    left, right = "{}" if isinstance(value, dict) else "[]"
    body = f",\n{deeper}".join(rows)
    return f"{left}\n{deeper}{body}\n{indent}{right}"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{value!r} is a {type(value).__name__}")


def _read_only(value: Any) -> Any:
    if isinstance(value, dict):
        return MappingProxyType({key: _read_only(item) for key, item in value.items()})
    return tuple(map(_read_only, value)) if isinstance(value, list) else value
