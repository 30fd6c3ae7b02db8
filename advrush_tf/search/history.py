"""SearchHistory: a search epoch by epoch, read from the genotypes in its folder."""

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
    """The genotypes, weights and metrics of a search after each epoch.

    Attributes:
        epochs: (epochs,), rising, from 1.
        genotypes: derived from the alphas at the end of each epoch.
        weights: for "normal" and "reduce", the weights of the operations (the softmax
            of the alphas) at each epoch's end, in [0, 1], (epochs, edges, operations);
            edges ordered by node and then by state.
        metrics: name -> (epochs,); NaN for epochs without the metric.
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
        """Mean entropy of an edge's weights, in nats: cell -> (epochs,)."""
        entropies = {}
        for kind, weights in self.weights.items():
            # Of a weight that has vanished, w log w is 0.
            logs = np.log(np.where(weights > 0, weights, 1))
            entropies[kind] = -(weights * logs).sum(-1).mean(-1)
        return entropies

    def kept(self, kind: str) -> list[dict[tuple[int, int], str]]:
        """The kept edges of a cell in each epoch: (node, state) -> operation.

        Nodes and states are numbered together; the cell's inputs are 0 and 1.
        """
        return [
            {
                (2 + index // 2, state): operation
                for index, (operation, state) in enumerate(getattr(genotype, kind))
            }
            for genotype in self.genotypes
        ]

    def changes(self, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """Counts the changes of a cell since the epoch before; 0 in the first.

        Returns:
            Twice (epochs,): the number of edges that were not kept before, and of edges
            that were kept with another operation.
        """
        pairs = list(pairwise(self.kept(kind)))
        edges = [len(after.keys() - before.keys()) for before, after in pairs]
        operations = [
            sum(after[edge] != before[edge] for edge in after.keys() & before.keys())
            for before, after in pairs
        ]
        return np.array([0, *edges]), np.array([0, *operations])

    def counts(self, kind: str) -> dict[str, np.ndarray]:
        """Counts the kept edges of a cell by operation: name -> (epochs,)."""
        rows = [genotype.operation_counts()[kind] for genotype in self.genotypes]
        return {
            name: np.array([row.get(name, 0) for row in rows])
            for name in self.primitives
            if name != "none"
        }


def is_search(workdir: Path) -> bool:
    """Returns whether a folder holds a search with a finished epoch."""
    return bool(_paths(workdir))


def read_history(workdir: Path) -> SearchHistory:
    """Reads the history of a search.

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
        # A setting that one lacks is newer than it.
        common = first.settings.keys() & epoch.settings.keys()
        if any(epoch.settings[name] != first.settings[name] for name in common):
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
    paths = (workdir / _FOLDER).glob("epoch_*.json")
    # Four digits, or more where an epoch has them.
    return sorted(paths, key=lambda path: (len(path.name), path.name))


@dataclasses.dataclass(frozen=True, eq=False)
class _Epoch:
    """The content of one file."""

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
    """Returns the softmax of a cell's alphas; ValueError for a wrong shape."""
    settings = provenance["settings"]
    alphas = np.array(provenance[f"alphas_{kind}"], np.float64)
    shape = num_edges(settings["num_nodes"]), len(settings["primitives"])
    if alphas.shape != shape:
        raise ValueError(f"alphas_{kind} has shape {alphas.shape}, not {shape}")
    return np.exp(alphas - np.logaddexp.reduce(alphas, -1, keepdims=True))


def _metrics(rows: Sequence[Mapping[str, float]]) -> dict[str, np.ndarray]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: np.array([row.get(name, np.nan) for row in rows]) for name in names}
