"""The published cells, checked by the size of the networks they make.

The reference counts come from the official evaluation network (36 channels, 20 cells,
10 classes, 32x32 images). Here they are added up by hand from its geometry.
"""

from typing import NamedTuple

import pytest

from advrush_tf.genotypes import published
from support import golden

COUNTS = golden.load("paramcounts")


class Cost(NamedTuple):
    params: int
    macs: int

    def plus(self, other):
        return Cost(self.params + other.params, self.macs + other.macs)


def conv(weights, out_height, out_width):
    """A convolution: each weight is used once at each place of its output."""
    return Cost(weights, weights * out_height * out_width)


def batch_norm(channels):
    return Cost(2 * channels, 0)


def one_by_one(channels_in, channels_out, size):
    """A ReLU-Conv-BN with a 1x1 kernel; a FactorizedReduce costs just as much."""
    return conv(channels_in * channels_out, size, size).plus(batch_norm(channels_out))


def depthwise_block(kernel, channels, size):
    depthwise = conv(kernel**2 * channels, size, size)
    return depthwise.plus(one_by_one(channels, channels, size))


def operation(name, channels, size, stride):
    out = size // stride
    if "pool" in name:
        return Cost(0, 0)
    if name == "skip_connect":
        return Cost(0, 0) if stride == 1 else one_by_one(channels, channels, out)
    if name == "conv_7x1_1x7":
        rows = conv(7 * channels**2, size, out)
        return rows.plus(conv(7 * channels**2, out, out)).plus(batch_norm(channels))
    block = depthwise_block(int(name[-1]), channels, out)
    return block.plus(block) if name.startswith("sep") else block


def evaluation_network(cells, channels=36, num_cells=20, classes=10, size=32):
    """Costs of the network without its auxiliary head, and of the head."""
    normal, normal_concat, reduce, reduce_concat = cells
    before = last = 3 * channels
    total = conv(27 * last, size, size).plus(batch_norm(last))
    for index in range(num_cells):
        reduction = index in (num_cells // 3, 2 * num_cells // 3)
        channels = channels * 2 if reduction else channels
        edges, concat = (
            (reduce, reduce_concat) if reduction else (normal, normal_concat)
        )
        total = total.plus(one_by_one(before, channels, size))
        total = total.plus(one_by_one(last, channels, size))
        for name, state in edges:
            stride = 2 if reduction and state < 2 else 1
            source = size // 2 if reduction and state >= 2 else size
            total = total.plus(operation(name, channels, source, stride))
        size = size // 2 if reduction else size
        before, last = last, len(concat) * channels
        if index == 2 * num_cells // 3:
            head = last * 128 + 2 * 128 + 4 * 128 * 768 + 2 * 768 + 769 * classes
    return total.plus(Cost((last + 1) * classes, last * classes)), head


@pytest.mark.parametrize("row", range(7), ids=COUNTS["arch"].tolist())
def test_network_has_the_size_of_the_official_one(row):
    total, head = evaluation_network(published.PUBLISHED[COUNTS["arch"][row]])
    assert total.params == COUNTS["params_no_aux"][row]
    assert total.params + head == COUNTS["params_with_aux"][row]
    assert total.macs == COUNTS["macs_32"][row]


def test_every_published_name_is_checked():
    assert set(published.PUBLISHED) == set(COUNTS["arch"].tolist())
