"""The memory that a run needs at least, compared before anything is built."""

import os
from pathlib import Path

import tensorflow as tf

from advrush_tf.errors import UserError
from advrush_tf.genotypes.search_space import reduction_cells

_FLOAT32, _BFLOAT16 = 4, 2  # bytes
# Of a weight there are its value, its gradient and its velocity.
_COPIES = 3


def least_bytes(
    batch_size: int,
    pixels: int,
    channels: int,
    num_cells: int = 1,
    num_nodes: int = 1,
) -> int:
    """Lower bound of the memory of one training step.

    Each cell has at least two convolutions 1x1 of its channels, and what it puts
    out waits for the backward pass. A ResNet-18 needs more than one cell of one node.

    Args:
        batch_size: images of a step.
        pixels: of an image where the first cell sees it.
        channels: of the first cell, before its reduction if it is one.
        num_cells, num_nodes: size of the network.
    """
    weights = outputs = 0
    reductions = reduction_cells(num_cells)
    for cell in range(num_cells):
        halvings = sum(position <= cell for position in reductions)
        width = channels * 2**halvings
        weights += 2 * width**2
        outputs += num_nodes * width * (pixels // 4**halvings)
    return _FLOAT32 * _COPIES * weights + _BFLOAT16 * batch_size * outputs


def memory_bytes() -> int:
    """Memory of the machine or, where that is less, of this process' control group."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text("utf-8"))
    except (OSError, ValueError):
        return machine
    return min(machine, limit)


def check_memory(least: int) -> None:
    """Refuses what a processor's memory cannot hold; GPUs have other memory.

    Args:
        least: bytes that are needed at least, see `least_bytes`.

    Raises:
        UserError: there is less.
    """
    if tf.config.list_physical_devices("GPU"):
        return
    if least > (memory := memory_bytes()):
        raise UserError(
            f"A step needs {least / 1e9:,.1f} GB of memory or more, and this machine "
            f"has {memory / 1e9:,.1f} GB. Lower --init_channels, --num_cells or "
            "--batch_size."
        )
