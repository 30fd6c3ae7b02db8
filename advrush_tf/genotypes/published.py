"""Published cells, as data."""

from advrush_tf.genotypes.search_space import Edge

States = tuple[int, ...]
Cells = tuple[tuple[Edge, ...], States, tuple[Edge, ...], States]


def _parsed(normal: str, normal_concat: str, reduce: str, reduce_concat: str) -> Cells:
    return (
        _edges(normal),
        tuple(map(int, normal_concat.split())),
        _edges(reduce),
        tuple(map(int, reduce_concat.split())),
    )


def _edges(text: str) -> tuple[Edge, ...]:
    pairs = [edge.split() for edge in text.split(",")]
    return tuple((op, int(state)) for op, state in pairs)


# Name to normal edges, normal output, reduction edges, reduction output. An edge is
# an operation and the state that it reads, two edges for each node in turn.
PUBLISHED: dict[str, Cells] = {
    # Mok et al. 2021, "AdvRush: Searching for Adversarially Robust Neural
    # Architectures".
    "ADVRUSH": _parsed(
        "sep_conv_3x3 1, sep_conv_3x3 0, sep_conv_5x5 0, sep_conv_3x3 1, "
        "sep_conv_3x3 1, sep_conv_3x3 0, skip_connect 0, sep_conv_3x3 1",
        "2 3 4 5",
        "sep_conv_3x3 0, sep_conv_3x3 1, skip_connect 0, dil_conv_3x3 2, "
        "skip_connect 0, avg_pool_3x3 1, skip_connect 0, skip_connect 2",
        "2 3 4 5",
    ),
    # Liu et al. 2019, "DARTS: Differentiable Architecture Search", first order.
    "DARTS_V1": _parsed(
        "sep_conv_3x3 1, sep_conv_3x3 0, skip_connect 0, sep_conv_3x3 1, "
        "skip_connect 0, sep_conv_3x3 1, sep_conv_3x3 0, skip_connect 2",
        "2 3 4 5",
        "max_pool_3x3 0, max_pool_3x3 1, skip_connect 2, max_pool_3x3 0, "
        "max_pool_3x3 0, skip_connect 2, skip_connect 2, avg_pool_3x3 0",
        "2 3 4 5",
    ),
    # The same paper, second order.
    "DARTS_V2": _parsed(
        "sep_conv_3x3 0, sep_conv_3x3 1, sep_conv_3x3 0, sep_conv_3x3 1, "
        "sep_conv_3x3 1, skip_connect 0, skip_connect 0, dil_conv_3x3 2",
        "2 3 4 5",
        "max_pool_3x3 0, max_pool_3x3 1, skip_connect 2, max_pool_3x3 1, "
        "max_pool_3x3 0, skip_connect 2, skip_connect 2, max_pool_3x3 1",
        "2 3 4 5",
    ),
    # Chen et al. 2019, "Progressive Differentiable Architecture Search".
    "PDARTS": _parsed(
        "skip_connect 0, dil_conv_3x3 1, skip_connect 0, sep_conv_3x3 1, "
        "sep_conv_3x3 1, sep_conv_3x3 3, sep_conv_3x3 0, dil_conv_5x5 4",
        "2 3 4 5",
        "avg_pool_3x3 0, sep_conv_5x5 1, sep_conv_3x3 0, dil_conv_5x5 2, "
        "max_pool_3x3 0, dil_conv_3x3 1, dil_conv_3x3 1, dil_conv_5x5 3",
        "2 3 4 5",
    ),
    # Dong et al. 2020, "Adversarially Robust Neural Architectures".
    "RACL": _parsed(
        "sep_conv_3x3 0, sep_conv_3x3 1, sep_conv_5x5 0, skip_connect 1, "
        "sep_conv_3x3 0, skip_connect 3, sep_conv_3x3 3, skip_connect 4",
        "2 3 4 5",
        "sep_conv_3x3 0, sep_conv_5x5 1, avg_pool_3x3 0, dil_conv_3x3 1, "
        "sep_conv_3x3 0, sep_conv_5x5 1, sep_conv_3x3 2, dil_conv_3x3 3",
        "2 3 4 5",
    ),
    # Zoph et al. 2018, "Learning Transferable Architectures for Scalable Image
    # Recognition" (NASNet-A), in the form of the DARTS code.
    "NASNet": _parsed(
        "sep_conv_5x5 1, sep_conv_3x3 0, sep_conv_5x5 0, sep_conv_3x3 0, "
        "avg_pool_3x3 1, skip_connect 0, avg_pool_3x3 0, avg_pool_3x3 0, "
        "sep_conv_3x3 1, skip_connect 1",
        "2 3 4 5 6",
        "sep_conv_5x5 1, sep_conv_7x7 0, max_pool_3x3 1, sep_conv_7x7 0, "
        "avg_pool_3x3 1, sep_conv_5x5 0, skip_connect 3, avg_pool_3x3 2, "
        "sep_conv_3x3 2, max_pool_3x3 1",
        "4 5 6",
    ),
    # Real et al. 2019, "Regularized Evolution for Image Classifier Architecture
    # Search" (AmoebaNet-A), in the form of the DARTS code.
    "AmoebaNet": _parsed(
        "avg_pool_3x3 0, max_pool_3x3 1, sep_conv_3x3 0, sep_conv_5x5 2, "
        "sep_conv_3x3 0, avg_pool_3x3 3, sep_conv_3x3 1, skip_connect 1, "
        "skip_connect 0, avg_pool_3x3 1",
        "4 5 6",
        "avg_pool_3x3 0, sep_conv_3x3 1, max_pool_3x3 0, sep_conv_7x7 2, "
        "sep_conv_7x7 0, avg_pool_3x3 1, max_pool_3x3 0, max_pool_3x3 1, "
        "conv_7x1_1x7 0, sep_conv_3x3 5",
        "3 4 6",
    ),
}
