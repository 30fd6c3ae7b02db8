"""How a search went, read from the genotypes that it left after each epoch."""

import dataclasses
import operator
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from advrush_tf.errors import UserError, one_line
from advrush_tf.genotypes.genotype import Genotype
from advrush_tf.genotypes.search_space import num_edges

CELLS = ("normal", "reduce")
_FOLDER = "genotypes"


@dataclasses.dataclass(frozen=True, eq=False)
class SearchHistory:
    """A search's course, epoch by epoch.

    Attributes:
        epochs: (epochs,), rising, from 1.
        genotypes: what the alphas of each epoch's end stand for.
        weights: for "normal" and "reduce", the weights of the operations (the softmax
            of the alphas) at each epoch's end, in [0, 1], (epochs, edges, operations);
            edges ordered by node and then by state.
        metrics: name -> (epochs,); NaN where an epoch does not tell.
        settings: of the search.
    """

    epochs: np.ndarray
    genotypes: tuple[Genotype, ...]
    weights: Mapping[str, np.ndarray]
    metrics: Mapping[str, np.ndarray]
    settings: Mapping[str, Any]

    @property
    def primitives(self) -> tuple[str, ...]:
        """Names of the operations."""
        return tuple(self.settings["primitives"])

    @cached_property
    def entropy(self) -> dict[str, np.ndarray]:
        """For each cell (epochs,): mean entropy of an edge's weights, in nats."""
        entropies = {}
        for kind, weights in self.weights.items():
            # Of a weight that has vanished, w log w is 0.
            logs = np.log(np.where(weights > 0, weights, 1))
            entropies[kind] = -(weights * logs).sum(-1).mean(-1)
        return entropies

    def kept(self, kind: str) -> list[dict[tuple[int, int], str]]:
        """For each epoch, the kept edges of a cell, (node, state) -> operation.

        Nodes and states are both counted with the cell's inputs as 0 and 1.
        """
        return [
            {
                (2 + place // 2, state): operation
                for place, (operation, state) in enumerate(getattr(genotype, kind))
            }
            for genotype in self.genotypes
        ]

    def changes(self, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """What differs from the genotype of the epoch before; in the first, nothing.

        Returns:
            For each epoch (epochs,) the number of a cell's edges that were not kept
            before, and the number of those that were, with another operation.
        """
        pairs = list(pairwise(self.kept(kind)))
        edges = [len(after.keys() - before.keys()) for before, after in pairs]
        operations = [
            sum(after[edge] != before[edge] for edge in after.keys() & before.keys())
            for before, after in pairs
        ]
        return np.array([0, *edges]), np.array([0, *operations])

    def counts(self, kind: str) -> dict[str, np.ndarray]:
        """How many of a cell's kept edges have each operation: name -> (epochs,)."""
        rows = [genotype.operation_counts()[kind] for genotype in self.genotypes]
        return {
            name: np.array([row.get(name, 0) for row in rows])
            for name in self.primitives
            if name != "none"
        }


def is_search(workdir: Path) -> bool:
    """Whether a folder is one of a search that has finished an epoch."""
    return bool(_paths(workdir))


def read_history(workdir: Path) -> SearchHistory:
    """Reads how a search went.

    Args:
        workdir: the search's folder.

    Raises:
        UserError: the folder holds no search, or a file is damaged or of another one.
    """
    paths = _paths(workdir)
    if not paths:
        raise UserError(
            f"{workdir} holds no search with a finished epoch: there is no "
            f"{_FOLDER}/epoch_*.json. Give the --workdir of launch/search.py."
        )
    first, *others = read = [_read_epoch(path) for path in paths]
    for path, epoch in zip(paths[1:], others, strict=True):
        if epoch.settings != first.settings:
            raise UserError(
                f"{path} is of a search with other settings than {paths[0]}; move it "
                "elsewhere."
            )
    return SearchHistory(
        np.array([epoch.number for epoch in read]),
        tuple(epoch.genotype for epoch in read),
        {kind: np.stack([epoch.weights[kind] for epoch in read]) for kind in CELLS},
        _metrics([epoch.metrics for epoch in read]),
        first.settings,
    )


def _paths(workdir: Path) -> list[Path]:
    return sorted((workdir / _FOLDER).glob("epoch_*.json"))


@dataclasses.dataclass(frozen=True, eq=False)
class _Epoch:
    """What one file tells."""

    number: int
    genotype: Genotype
    weights: Mapping[str, np.ndarray]
    metrics: Mapping[str, float]
    settings: Mapping[str, Any]


def _read_epoch(path: Path) -> _Epoch:
    try:
        genotype = Genotype.from_json(path.read_text("utf-8"))
        provenance = genotype.provenance
        settings = provenance["settings"]
        operator.index(settings["warmup_epochs"])
        metrics = provenance.get("metrics", {}).items()
        return _Epoch(
            operator.index(provenance["epoch"]),
            genotype,
            {kind: _weights(provenance, kind) for kind in CELLS},
            {name: float(value) for name, value in metrics},
            settings,
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged ({one_line(error)}). Without it the rest can be read."
        ) from None


def _weights(provenance: Mapping[str, Any], kind: str) -> np.ndarray:
    """The softmax of a cell's alphas; raises ValueError if its shape is wrong."""
    settings = provenance["settings"]
    alphas = np.array(provenance[f"alphas_{kind}"], np.float64)
    shape = num_edges(settings["num_nodes"]), len(settings["primitives"])
    if alphas.shape != shape:
        raise ValueError(f"alphas_{kind} has shape {alphas.shape}, not {shape}")
    return np.exp(alphas - np.logaddexp.reduce(alphas, -1, keepdims=True))


def _metrics(rows: Sequence[Mapping[str, float]]) -> dict[str, np.ndarray]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: np.array([row.get(name, np.nan) for row in rows]) for name in names}
