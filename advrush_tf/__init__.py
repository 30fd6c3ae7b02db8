"""AdvRush in TensorFlow: search for adversarially robust neural architectures."""

from advrush_tf.genotypes import Genotype, get_genotype
from advrush_tf.network import CellNetwork
from advrush_tf.penalty import curvature_penalty
from advrush_tf.pipeline import bilevel_pairs
from advrush_tf.search import AdvRushSearchModel, NonFiniteLossError

__all__ = [
    "AdvRushSearchModel",
    "CellNetwork",
    "Genotype",
    "NonFiniteLossError",
    "bilevel_pairs",
    "curvature_penalty",
    "get_genotype",
]
