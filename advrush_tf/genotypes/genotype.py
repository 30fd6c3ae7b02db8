"""Genotypes: discrete cells as data, their files, and where they come from."""

import copy
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs
import numpy as np

from advrush_tf.files import json_copy, verified_json, write_json
from advrush_tf.genotypes import text as written
from advrush_tf.genotypes.published import PUBLISHED
from advrush_tf.genotypes.search_space import (
    ALL_PRIMITIVES,
    EXTRA_PRIMITIVES,
    PRIMITIVES,
    Edge,
    check_primitives,
    checked_concat,
    checked_edges,
    strongest_edges,
)

__all__ = [
    "ALL_PRIMITIVES",
    "EXTRA_PRIMITIVES",
    "NAMED",
    "PRIMITIVES",
    "Genotype",
    "get_genotype",
    "random_genotype",
]

_CELL_KEYS = ("normal", "normal_concat", "reduce", "reduce_concat")


@attrs.frozen(repr=False)
class Genotype:
    """A normal and a reduction cell, validated and immutable.

    States 0 and 1 are the outputs of the two previous cells, state 2 + i is
    intermediate node i. Lists, and pairs grouped by node, are accepted and kept as
    plain tuples. The operation `none` gives zeros.

    Attributes:
        normal: Two `(operation, state it reads)` pairs per node, node by node.
        normal_concat: States of the nodes that make up the cell's output.
        reduce: As `normal`, for the reduction cell.
        reduce_concat: As `normal_concat`, for the reduction cell.
        provenance: The origin of the genotype (settings, seed, data set, epoch,
            library version, alphas): a mapping that JSON can hold. It is copied on
            the way in and out, and does not count for equality.

    Raises:
        ValueError: If an operation is unknown, a state does not exist, the two
            cells differ in their number of nodes, or JSON cannot hold the
            provenance.
    """

    normal: tuple[Edge, ...]
    normal_concat: tuple[int, ...]
    reduce: tuple[Edge, ...]
    reduce_concat: tuple[int, ...]
    _provenance: dict[str, Any] = attrs.field(
        factory=dict, converter=json_copy, eq=False
    )

    def __attrs_post_init__(self):
        for kind in ("normal", "reduce"):
            edges = checked_edges(kind, getattr(self, kind))
            concat = getattr(self, f"{kind}_concat")
            concat = checked_concat(kind, concat, len(edges) // 2)
            object.__setattr__(self, kind, edges)
            object.__setattr__(self, f"{kind}_concat", concat)
        if len(self.normal) != len(self.reduce):
            raise ValueError(
                f"The normal cell has {len(self.normal) // 2} nodes and the reduction "
                f"cell {len(self.reduce) // 2}: both need the same number."
            )
        if not isinstance(self._provenance, dict):
            raise ValueError(f"Provenance is a mapping, not {self._provenance!r}.")

    @property
    def provenance(self) -> dict[str, Any]:
        """A copy of what made the genotype."""
        return copy.deepcopy(self._provenance)

    @property
    def num_nodes(self) -> int:
        """Number of intermediate nodes in each cell."""
        return len(self.normal) // 2

    def operation_counts(self) -> dict[str, dict[str, int]]:
        """Counts how often each cell uses each operation.

        Returns:
            `{"normal": {operation: count}, "reduce": {operation: count}}`, without
            the operations that a cell does not use.
        """
        counts = {}
        for kind, edges in (("normal", self.normal), ("reduce", self.reduce)):
            found = Counter(op for op, _ in edges)
            counts[kind] = {op: found[op] for op in ALL_PRIMITIVES if op in found}
        return counts

    def to_dict(self) -> dict[str, Any]:
        """Returns the five fields as new plain lists and dictionaries."""
        cells = {key: getattr(self, key) for key in _CELL_KEYS}
        return json_copy({**cells, "provenance": self._provenance})

    def to_json(self) -> str:
        """Returns the genotype, provenance included, as indented JSON text."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Genotype":
        """Reads the JSON text of `to_json`.

        Args:
            text: A JSON object with "normal", "normal_concat", "reduce",
                "reduce_concat" and, if known, "provenance".

        Returns:
            The genotype.

        Raises:
            ValueError: If the text is not such an object.
        """
        try:
            data = verified_json(text)
        except ValueError as error:
            raise ValueError(f"The genotype is damaged: {error}.") from None
        if not isinstance(data, dict):
            raise ValueError(
                f"A genotype is a JSON object with the keys {', '.join(_CELL_KEYS)}, "
                f"not a {type(data).__name__}."
            )
        missing = [key for key in _CELL_KEYS if key not in data]
        unknown = sorted(set(data) - {*_CELL_KEYS, "provenance"})
        if missing or unknown:
            problem = "lacks" if missing else "has the unknown entry"
            raise ValueError(
                f"The genotype {problem} {', '.join(missing or unknown)}; its keys are "
                f"{', '.join(_CELL_KEYS)} and, if known, provenance."
            )
        return cls(**data)

    @classmethod
    def from_text(cls, text: str) -> "Genotype":
        """Reads the last `Genotype(...)` of a text, as of a log, or else JSON.

        Args:
            text: See `text.last_call` and `from_json`. Nothing in it is evaluated.

        Returns:
            The genotype.

        Raises:
            ValueError: If the text holds no genotype.
        """
        if not written.has_call(text):
            return cls.from_json(text)
        return cls(**written.last_call(text))

    def save(self, path: str | os.PathLike) -> None:
        """Writes JSON with a checksum; a crash leaves the old file or the new, whole.

        Args:
            path: The file to write; its folder must exist.

        Raises:
            OSError: If the file cannot be written.
        """
        write_json(Path(path), self.to_dict())

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Genotype":
        """Reads a file of `save`, or the last `Genotype(...)` of a text file.

        Args:
            path: The JSON file, or for example the log of a PyTorch search.

        Returns:
            The genotype.

        Raises:
            OSError: If the file cannot be read.
            ValueError: If it does not hold a genotype.
        """
        try:
            return cls.from_text(Path(path).read_text(encoding="utf-8-sig"))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    @classmethod
    def from_alphas(
        cls,
        alphas_normal: Any,
        alphas_reduce: Any,
        primitives: Sequence[str] = PRIMITIVES,
        provenance: Mapping[str, Any] | None = None,
    ) -> "Genotype":
        """Derives the genotype from architecture parameters.

        See `search_space.strongest_edges` for the rule and for ties.

        Args:
            alphas_normal: Architecture parameters before the softmax, shape
                (edges, operations).
            alphas_reduce: The same for the reduction cell.
            primitives: The operation of each column.
            provenance: See the class.

        Returns:
            The genotype; each cell puts out all of its nodes.

        Raises:
            ValueError: If the shapes fit no cell, a value is not finite, or the
                primitives are not valid.
        """
        normal = strongest_edges("normal", alphas_normal, primitives)
        reduce = strongest_edges("reduce", alphas_reduce, primitives)
        return cls._of_all_nodes(normal, reduce, provenance or {})

    @classmethod
    def _of_all_nodes(cls, normal, reduce, provenance) -> "Genotype":
        concat = tuple(range(2, 2 + len(normal) // 2))
        return cls(normal, concat, reduce, concat, provenance)

    def __repr__(self) -> str:
        lines = []
        for kind in ("normal", "reduce"):
            edges = [f'("{op}", {state})' for op, state in getattr(self, kind)]
            lines += [f"    {kind}=("]
            lines += [
                f"        {first}, {second},"
                for first, second in zip(edges[::2], edges[1::2], strict=True)
            ]
            lines += ["    ),"]
            lines += [f"    {kind}_concat={getattr(self, f'{kind}_concat')},"]
        return "\n".join(["Genotype(", *lines, ")"])


NAMED: Mapping[str, Genotype] = MappingProxyType(
    {
        name: Genotype(*cells, provenance={"published": name})
        for name, cells in PUBLISHED.items()
    }
)


def random_genotype(
    seed: int, num_nodes: int = 4, primitives: Sequence[str] = PRIMITIVES
) -> Genotype:
    """Draws a genotype: the baseline that every search should beat.

    Args:
        seed: 0 to 2**32 - 1; the same seed gives the same genotype everywhere.
        num_nodes: Intermediate nodes in each cell, 1 or more.
        primitives: Operations to draw from, with equal chance; `none` is left out.

    Returns:
        A genotype in which each node reads two different states.

    Raises:
        ValueError: If the seed, the number of nodes or the primitives are not valid.
    """
    if num_nodes < 1:
        raise ValueError(f"A cell needs at least one node, got num_nodes={num_nodes}.")
    names = [name for name in check_primitives(primitives) if name != "none"]
    rng = np.random.RandomState(seed)  # its stream is the same in all NumPy versions

    def cell() -> list[Edge]:
        return [
            (names[rng.randint(len(names))], state)
            for node in range(num_nodes)
            for state in sorted(rng.choice(node + 2, 2, replace=False).tolist())
        ]

    return Genotype._of_all_nodes(cell(), cell(), {"random_seed": seed})


def get_genotype(name_or_path: str | os.PathLike) -> Genotype:
    """Finds a genotype by its published name, or reads it from a file or a text.

    Args:
        name_or_path: A key of `NAMED`, the path of a file that `Genotype.load` reads,
            or a `Genotype(...)` as PyTorch's logs write it.

    Returns:
        The genotype.

    Raises:
        ValueError: If it is neither, or the file cannot be read as a genotype.
    """
    if str(name_or_path) in NAMED:
        return NAMED[str(name_or_path)]
    if written.has_call(str(name_or_path)):
        return Genotype.from_text(str(name_or_path))
    try:
        return Genotype.load(name_or_path)
    except OSError as error:
        raise ValueError(
            f"No genotype {str(name_or_path)!r} ({error.strerror}): give one of "
            f"{', '.join(NAMED)}, or the path of a genotype.json "
            "or of a log with a Genotype(...)."
        ) from None
