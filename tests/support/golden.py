"""Reads the reference numbers under testdata/golden."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parents[2] / "testdata" / "golden"


def load(name: str) -> dict[str, Any]:
    """Reads one file of reference numbers.

    Some groups of arrays are stored as one vector, `<group>/__packed__`; the entry
    `index` lists the names and shapes in it. They are taken apart here.

    Args:
        name: The file's name without ".npz".

    Returns:
        Arrays by name, and under "meta" the file's description as a dictionary.
    """
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        stored = dict(file)
    index = json.loads(stored.pop("index").item())
    packed = {key: stored.pop(f"{key}/__packed__") for key in index}
    arrays = {**stored, "meta": json.loads(stored["meta"].item())}
    for key, entries in index.items():
        sizes = [math.prod(shape) for _, shape in entries]
        pieces = np.split(packed[key], np.cumsum(sizes))
        if len(pieces[-1]):
            raise ValueError(f"{name}: numbers left over in {key}.")
        for (entry, shape), piece in zip(entries, pieces[:-1], strict=True):
            arrays[f"{key}/{entry}"] = piece.reshape(shape)
    return arrays


def group(data: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Returns the arrays below a prefix, named without it, in stored order."""
    start = prefix.rstrip("/") + "/"
    return {k.removeprefix(start): v for k, v in data.items() if k.startswith(start)}
