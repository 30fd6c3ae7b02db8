"""AdvRush in TensorFlow: adversarially robust architectures, searched and fitted."""

from advrush_tf import environment as environment
from advrush_tf.attacks.autoattack import AutoAttack
from advrush_tf.attacks.robustness import evaluate_robustness
from advrush_tf.data.dataset import load_dataset
from advrush_tf.data.pipeline import bilevel_pairs, training_batches
from advrush_tf.errors import NonFiniteLossError
from advrush_tf.fit.model import AdvRushFitModel
from advrush_tf.fit.objectives import FGSMRS, MART, PGD, TRADES, Standard
from advrush_tf.genotypes.genotype import Genotype, get_genotype
from advrush_tf.landscape.hessian import hessian_vector_product
from advrush_tf.landscape.meter import CurvatureMetric, measure_curvature
from advrush_tf.nn.cell_network import CellNetwork
from advrush_tf.nn.resnet import ResNet18
from advrush_tf.search.model import AdvRushSearchModel
from advrush_tf.search.penalty import curvature_penalty
from advrush_tf.version import __version__

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
    "__version__",
    "bilevel_pairs",
    "curvature_penalty",
    "evaluate_robustness",
    "get_genotype",
    "hessian_vector_product",
    "load_dataset",
    "measure_curvature",
    "training_batches",
]
