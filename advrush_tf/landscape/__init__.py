"""Landscape: the loss as a function of the input, its curvature and its surfaces.

May import `search`, `attacks` and what those may. Begin with `meter`.
"""

from advrush_tf.landscape.curvature_metric import CurvatureMetric
from advrush_tf.landscape.meter import (
    CurvatureMeter,
    hessian_vector_product,
    measure_curvature,
)

__all__ = [
    "CurvatureMeter",
    "CurvatureMetric",
    "hessian_vector_product",
    "measure_curvature",
]
