"""Networks for tests: of a golden file, tiny ones, and a linear one."""

import keras
import numpy as np

from advrush_tf.genotypes.genotype import Genotype
from advrush_tf.nn.cell_network import CellNetwork

# An operation of each kind, with stride 2 and, from node 2, with stride 1.
_EDGES = (
    *(("sep_conv_3x3", 0), ("skip_connect", 1)),
    *(("dil_conv_3x3", 2), ("max_pool_3x3", 1)),
)
CELLS = Genotype(_EDGES, (2, 3), _EDGES, (2, 3))


def golden_network(data, dtype):
    """The official network of a golden file, with new initial weights."""
    config = data["meta"]["config"]
    return CellNetwork(
        Genotype(**data["meta"]["genotype"])
        if "genotype" in data["meta"]
        else "ADVRUSH",
        config["classes"],
        (config["image"], config["image"], 3),
        init_channels=config["C"],
        num_cells=config["layers"],
        stem="imagenet" if config["case"] == "imagenet" else "cifar",
        auxiliary=config.get("auxiliary", False),
        dtype=dtype,
    )


def tiny_network(seed=0, **settings):
    """A network of 8x8 images of one channel and three classes."""
    keras.utils.set_random_seed(seed)
    return CellNetwork(CELLS, 3, (8, 8, 1), 2, 2, **settings)


def tiny_batch(seed=0, size=6):
    generator = np.random.default_rng(seed)
    x = generator.random((size, 8, 8, 1), np.float32)
    return x, generator.integers(0, 3, size).astype(np.int32)
