"""Assigns weights of the official PyTorch code to our layers.

The official supernet stores one module an edge and an operation; ours stores one
variable for all edges that leave a state. In the network of a fixed genotype both store
one module an edge. A `Slot` is the part of a variable that an official tensor fills.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from advrush_tf.nn.blocks import (
    ConvBatchNorm,
    Preprocess,
    RectangularBlock,
    SeparableBlock,
)
from advrush_tf.nn.cell_network import AuxiliaryHead, CellNetwork
from advrush_tf.nn.mixed_op import MixedEdges
from advrush_tf.nn.supernet import SearchCell, Supernet, leaving_edges

_CONVOLUTION = (2, 3, 1, 0)  # (out, in, kh, kw) -> (kh, kw, in, out)
_DEPTHWISE = (2, 3, 0, 1)  # (channels, 1, kh, kw) -> (kh, kw, channels, 1)


class Slot(NamedTuple):
    """The place of one official tensor.

    Attributes:
        name: official state-dictionary name.
        variable: our variable.
        axes: transposition from the official layout to ours.
        axis: axis of our variable along which several tensors share it.
        part: the range along that axis which this tensor fills.
    """

    name: str
    variable: keras.Variable
    axes: tuple[int, ...]
    axis: int
    part: slice


def _slot(name, variable, axes=None, axis=-1, part=slice(None)) -> Slot:
    axes = axes or tuple(range(len(variable.shape)))
    return Slot(name, variable, axes, axis, part)


def assign_supernet(model: Any, state: Mapping[str, np.ndarray]) -> None:
    """Sets a search model's weights, running statistics and alphas.

    Args:
        model: an `AdvRushSearchModel` or a `Supernet`, already built.
        state: official state-dictionary names to arrays, with `alphas_normal` and
            `alphas_reduce` (edges, operations). `num_batches_tracked` is ignored.

    Raises:
        ValueError: an entry is missing, unknown or misshapen; the message names it.
            Nothing is assigned in that case.
    """
    supernet = model if isinstance(model, Supernet) else model.supernet
    _assign(list(_supernet_slots(supernet)), state)


def assign_network(network: CellNetwork, state: Mapping[str, np.ndarray]) -> None:
    """Sets the weights and running statistics of a network of a fixed genotype.

    Args:
        network: the network, with an auxiliary head if the state has one.
        state: official state-dictionary names to arrays. `num_batches_tracked` is
            ignored.

    Raises:
        ValueError: an entry is missing, unknown or misshapen; the message names it.
            Nothing is assigned in that case.
    """
    _assign(list(_network_slots(network)), state)


def _assign(slots: list[Slot], state: Mapping[str, np.ndarray]) -> None:
    _check_entries(slots, state)
    values: dict[int, tuple[keras.Variable, np.ndarray]] = {}
    for slot in slots:
        key = id(slot.variable)
        if key not in values:
            values[key] = slot.variable, np.zeros(slot.variable.shape)
        index: list[slice] = [slice(None)] * len(slot.variable.shape)
        index[slot.axis] = slot.part
        values[key][1][tuple(index)] = np.transpose(state[slot.name], slot.axes)
    for variable, value in values.values():
        variable.assign(value)


def _check_entries(slots: list[Slot], state: Mapping[str, np.ndarray]) -> None:
    """Raises ValueError for the network's first entry that does not fit."""
    for slot in slots:
        if slot.name not in state:
            raise ValueError(f"entry '{slot.name}' is missing from the state")
        found, expected = np.shape(state[slot.name]), _official_shape(slot)
        if found != expected:
            raise ValueError(
                f"entry '{slot.name}' has shape {found}; this model needs {expected}"
            )
    wanted = {slot.name for slot in slots}
    for name in state:
        if name not in wanted and not name.endswith("num_batches_tracked"):
            raise ValueError(f"entry {name!r} has no place in this model")


def _official_shape(slot: Slot) -> tuple[int, ...]:
    ours = list(slot.variable.shape)
    ours[slot.axis] = len(range(*slot.part.indices(ours[slot.axis])))
    return tuple(ours[axis] for axis in np.argsort(slot.axes))


def _supernet_slots(supernet: Supernet) -> Iterator[Slot]:
    yield _slot("alphas_normal", supernet.alphas_normal)
    yield _slot("alphas_reduce", supernet.alphas_reduce)
    yield from _conv_norm_slots("stem", 0, supernet.stem)
    for position, cell in enumerate(supernet.cells):
        yield from _cell_slots(f"cells.{position}", cell)
    yield from _dense_slots("classifier", supernet.classifier)


def _network_slots(network: CellNetwork) -> Iterator[Slot]:
    places = [("stem", 0)]
    if len(network.stem_blocks) > 1:
        places = [("stem0", 0), ("stem0", 3), ("stem1", 1)]
    for place, block in zip(places, network.stem_blocks, strict=True):
        yield from _conv_norm_slots(*place, block)
    for position, cell in enumerate(network.cells):
        prefix = f"cells.{position}"
        for index, layer in enumerate(cell.preprocess):
            yield from _preprocess_slots(f"{prefix}.preprocess{index}", layer)
        for index, operation in enumerate(cell.operations):
            yield from _operation_slots(f"{prefix}._ops.{index}", operation.block)
    if network.auxiliary_head is not None:
        yield from _auxiliary_slots("auxiliary_head", network.auxiliary_head)
    yield from _dense_slots("classifier", network.classifier)


def _operation_slots(prefix: str, block: Any) -> Iterator[Slot]:
    if isinstance(block, Preprocess):
        yield from _preprocess_slots(prefix, block)
    elif isinstance(block, SeparableBlock):
        yield from _separable_slots(prefix, 1, block, slice(None))
    elif block is not None:
        yield from _convolution_slots(prefix, block, slice(None))


def _auxiliary_slots(prefix: str, head: AuxiliaryHead) -> Iterator[Slot]:
    yield from _conv_norm_slots(f"{prefix}.features", 2, head.first)
    if isinstance(head.second, ConvBatchNorm):
        yield from _conv_norm_slots(f"{prefix}.features", 5, head.second)
    else:
        name = f"{prefix}.features.5.weight"
        yield _slot(name, head.second.kernel, _CONVOLUTION)
    yield from _dense_slots(f"{prefix}.classifier", head.classifier)


def _dense_slots(prefix: str, dense: keras.layers.Dense) -> Iterator[Slot]:
    yield _slot(f"{prefix}.weight", dense.kernel, (1, 0))
    yield _slot(f"{prefix}.bias", dense.bias)


def _cell_slots(prefix: str, cell: SearchCell) -> Iterator[Slot]:
    for index, layer in enumerate(cell.preprocess):
        yield from _preprocess_slots(f"{prefix}.preprocess{index}", layer)
    for state, mixed in enumerate(cell.edges):
        for position, edge in enumerate(leaving_edges(state, cell.num_nodes)):
            yield from _edge_slots(f"{prefix}._ops.{edge}._ops", mixed, position)


def _preprocess_slots(prefix: str, layer: Preprocess) -> Iterator[Slot]:
    if layer.halve:
        yield from _reduction_slots(prefix, layer.convolution, slice(0, layer.channels))
    else:
        yield from _conv_norm_slots(f"{prefix}.op", 1, layer.convolution)


def _edge_slots(prefix: str, mixed: MixedEdges, position: int) -> Iterator[Slot]:
    part = slice(position * mixed.channels, (position + 1) * mixed.channels)
    for index, name in enumerate(mixed.primitives):
        operation = f"{prefix}.{index}"
        if name in mixed.pools:
            mean, variance = mixed.pools[name]
            yield _slot(f"{operation}.1.running_mean", mean, part=part)
            yield _slot(f"{operation}.1.running_var", variance, part=part)
        elif name in mixed.dilated:
            yield from _separable_slots(operation, 1, mixed.dilated[name], part)
        elif name in mixed.convolutions:
            yield from _convolution_slots(operation, mixed.convolutions[name], part)
        elif name == "skip_connect" and mixed.reduction:
            yield from _reduction_slots(operation, mixed.reduction, part)


def _convolution_slots(prefix: str, block: Any, part: slice) -> Iterator[Slot]:
    if isinstance(block, RectangularBlock):
        # The only convolution that is a bare sequence, not a module with one in `op`.
        yield _slot(f"{prefix}.1.weight", block.horizontal, _CONVOLUTION, part=part)
        yield from _conv_norm_slots(prefix, 2, block.vertical, part)
    else:
        yield from _separable_slots(prefix, 1, block.first, part)
        yield from _separable_slots(prefix, 5, block.second, part)


def _separable_slots(
    prefix: str, index: int, block: SeparableBlock, part: slice
) -> Iterator[Slot]:
    name = f"{prefix}.op.{index}.weight"
    yield _slot(name, block.depthwise, _DEPTHWISE, axis=2, part=part)
    yield from _conv_norm_slots(f"{prefix}.op", index + 1, block.pointwise, part)


def _conv_norm_slots(
    prefix: str, index: int, block: ConvBatchNorm, part: slice = slice(None)
) -> Iterator[Slot]:
    """A convolution and, as the next module of a sequence, its normalisation."""
    yield _slot(f"{prefix}.{index}.weight", block.kernel, _CONVOLUTION, part=part)
    yield from _norm_slots(f"{prefix}.{index + 1}", block, part)


def _reduction_slots(prefix: str, block: ConvBatchNorm, part: slice) -> Iterator[Slot]:
    middle = (part.start + part.stop) // 2
    halves = slice(part.start, middle), slice(middle, part.stop)
    for index, half in enumerate(halves, 1):
        name = f"{prefix}.conv_{index}.weight"
        yield _slot(name, block.kernel, _CONVOLUTION, part=half)
    yield from _norm_slots(f"{prefix}.bn", block, part)


def _norm_slots(
    prefix: str, block: ConvBatchNorm, part: slice = slice(None)
) -> Iterator[Slot]:
    if block.affine:
        yield _slot(f"{prefix}.weight", block.gamma, part=part)
        yield _slot(f"{prefix}.bias", block.beta, part=part)
    yield _slot(f"{prefix}.running_mean", block.moving_mean, part=part)
    yield _slot(f"{prefix}.running_var", block.moving_variance, part=part)
