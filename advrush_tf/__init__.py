"""AdvRush in TensorFlow: adversarially robust architectures, searched and fitted."""

from advrush_tf import environment as environment
from advrush_tf.attacks.autoattack import AutoAttack
from advrush_tf.curvature_metric import CurvatureMetric
from advrush_tf.errors import NonFiniteLossError
from advrush_tf.fit import AdvRushFitModel
from advrush_tf.genotypes import Genotype, get_genotype
from advrush_tf.landscape.curvature import hessian_vector_product, measure_curvature
from advrush_tf.network import CellNetwork
from advrush_tf.objectives import FGSMRS, MART, PGD, TRADES, Standard
from advrush_tf.penalty import curvature_penalty
from advrush_tf.pipeline import bilevel_pairs, training_batches
from advrush_tf.resnet import ResNet18
from advrush_tf.search import AdvRushSearchModel

__all__ = [
    "FGSMRS",
    "MART",
    "PGD",
    "TRADES",
    "AdvRushFitModel",
    "AdvRushSearchModel",
    "AutoAttack",
    "CellNetwork",
    "CurvatureMetric",
    "Genotype",
    "NonFiniteLossError",
    "ResNet18",
    "Standard",
    "bilevel_pairs",
    "curvature_penalty",
    "get_genotype",
    "hessian_vector_product",
    "measure_curvature",
    "training_batches",
]
