"""The rules of a cell: its operations, its edges, and which of them are kept."""

import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

Edge = tuple[str, int]

PRIMITIVES = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
EXTRA_PRIMITIVES = ("sep_conv_7x7", "conv_7x1_1x7")
ALL_PRIMITIVES = PRIMITIVES + EXTRA_PRIMITIVES


def reduction_cells(num_cells: int) -> set[int]:
    """Positions of the reduction cells: a third and two thirds of the depth."""
    return {num_cells // 3, 2 * num_cells // 3}


def check_primitives(primitives: Sequence[str]) -> tuple[str, ...]:
    """Checks the candidate operations of a search space.

    Args:
        primitives: Names from `ALL_PRIMITIVES`, in the order of the columns of
            the alphas; `none` may be missing.

    Returns:
        The names as a tuple.

    Raises:
        ValueError: If a name is unknown or repeated, or none is left but `none`.
    """
    names = tuple(primitives)
    unknown = [name for name in names if name not in ALL_PRIMITIVES]
    if unknown:
        raise ValueError(
            f"Unknown primitive {unknown[0]!r}; "
            f"choose from {', '.join(ALL_PRIMITIVES)}."
        )
    if len(set(names)) != len(names):
        raise ValueError(f"Each primitive may appear only once, got {names}.")
    if not set(names) - {"none"}:
        raise ValueError("The primitives need at least one operation besides `none`.")
    return names


def checked_edges(kind: str, edges: Iterable[Any]) -> tuple[Edge, ...]:
    """Turns `(operation, state)` pairs into tuples and checks them.

    Args:
        kind: Name of the cell, for messages.
        edges: Two pairs per node, node by node, or a pair of pairs per node.

    Returns:
        The pairs, one after the other, with states as plain ints.

    Raises:
        ValueError: If a pair is malformed, an operation is unknown, a state does not
            come before its node, or a node lacks an edge.
    """
    checked: list[Edge] = []
    for entry in _ungrouped(_as_sequence(edges, f"The {kind} cell")):
        if isinstance(entry, str) or len(pair := _as_sequence(entry, "An edge")) != 2:
            raise ValueError(
                f"Each edge of the {kind} cell is a pair (operation, state), "
                f"not {entry!r}."
            )
        checked.append(_checked_edge(kind, len(checked) // 2, *pair))
    if not checked or len(checked) % 2:
        raise ValueError(
            f"The {kind} cell has {len(checked)} edges; it needs two for each node."
        )
    return tuple(checked)


def _ungrouped(entries: Iterable[Any]) -> Iterator[Any]:
    """Yields the pairs; those that are grouped by node, one by one."""
    for entry in entries:
        pairs = isinstance(entry, list | tuple) and entry
        if pairs and all(isinstance(pair, list | tuple) for pair in pairs):
            yield from pairs
        else:
            yield entry


def _checked_edge(kind: str, node: int, op: Any, state: Any) -> Edge:
    if not isinstance(op, str) or op not in ALL_PRIMITIVES:
        raise ValueError(
            f"Unknown operation {op!r} in the {kind} cell; "
            f"choose from {', '.join(ALL_PRIMITIVES)}."
        )
    index = _as_index(state)
    if index is None or not 0 <= index < node + 2:
        raise ValueError(
            f"Node {node} of the {kind} cell cannot read state {state!r}; "
            f"it may read the states 0 to {node + 1}."
        )
    return op, index


def checked_concat(kind: str, concat: Iterable[Any], num_nodes: int) -> tuple[int, ...]:
    """Turns the states that a cell puts out into a tuple and checks them.

    Args:
        kind: Name of the cell, for messages.
        concat: States of intermediate nodes, each at most once.
        num_nodes: Number of intermediate nodes of the cell.

    Returns:
        The states as plain ints.

    Raises:
        ValueError: If there is none, one is repeated, or one is not a node.
    """
    given = _as_sequence(concat, f"The output of the {kind} cell")
    states = tuple(_as_index(state) for state in given)
    nodes = range(2, num_nodes + 2)
    if not states or len(set(states)) != len(states) or set(states) - set(nodes):
        raise ValueError(
            f"The output of the {kind} cell joins states from 2 to {num_nodes + 1}, "
            f"each at most once and at least one; got {given}."
        )
    return tuple(state for state in states if state is not None)


def _as_sequence(value: Any, name: str) -> tuple[Any, ...]:
    try:
        return tuple(value)
    except TypeError:
        raise ValueError(f"{name} must be a list, not {value!r}.") from None


def _as_index(value: Any) -> int | None:
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def strongest_edges(
    kind: str, alphas: Any, primitives: Sequence[str]
) -> tuple[Edge, ...]:
    """Keeps the strongest operation on the two strongest edges of each node.

    With p = softmax(alphas[edge]) over all operations, `none` included,

        operation(edge) = argmax of p over all operations but `none`
        strength(edge) = the p of that operation

    and each node keeps the two strongest of its edges. Ties go to the earlier state and
    to the earlier primitive.

    Args:
        kind: Name of the cell, for messages.
        alphas: Architecture parameters before the softmax, shape (edges,
            operations); rows are the edges into node 0, into node 1, ..., each by
            the state they come from.
        primitives: The operation of each column.

    Returns:
        Two `(operation, state)` pairs per node, the stronger edge first.

    Raises:
        ValueError: If the shape fits no cell, a value is not finite, or the
            primitives are not valid.

    Source: Liu et al., DARTS, arXiv 1806.09055, section 2.4 and equation 2.
    """
    names = check_primitives(primitives)
    weights = _softmax(_checked_alphas(kind, alphas, len(names)))
    columns = [column for column, name in enumerate(names) if name != "none"]
    best = weights[:, columns].argmax(axis=1)
    strength = weights[:, columns].max(axis=1)
    edges: list[Edge] = []
    start, num_states = 0, 2
    while start < len(weights):
        order = np.argsort(-strength[start : start + num_states], kind="stable")
        for state in order[:2].tolist():
            edges.append((names[columns[best[start + state]]], state))
        start, num_states = start + num_states, num_states + 1
    return tuple(edges)


def _checked_alphas(kind: str, alphas: Any, num_primitives: int) -> np.ndarray:
    table = np.asarray(alphas, np.float64)
    if table.ndim != 2 or table.shape[1] != num_primitives:
        raise ValueError(
            f"The {kind} alphas have shape {table.shape}; expected one row per edge "
            f"and {num_primitives} columns, one per primitive."
        )
    nodes = num_nodes_for(len(table))
    if nodes is None:
        raise ValueError(
            f"The {kind} alphas have {len(table)} rows; cells with 1, 2, 3, 4, ... "
            "nodes have 2, 5, 9, 14, ... edges."
        )
    if not np.isfinite(table).all():
        raise ValueError(f"The {kind} alphas hold a value that is not finite.")
    return table


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def num_edges(num_nodes: int) -> int:
    """Returns how many edges a cell has when each node reads all earlier states."""
    return num_nodes * (num_nodes + 3) // 2


def num_nodes_for(edges: int) -> int | None:
    """Returns the number of nodes of a cell with so many edges, or None."""
    nodes = next(n for n in range(1, edges + 2) if num_edges(n) >= edges)
    return nodes if num_edges(nodes) == edges else None
