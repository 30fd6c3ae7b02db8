"""Landscape: the loss as a function of the input, its curvature and its surfaces.

May import `search`, `attacks` and what those may. Begin with `meter`.
"""

from advrush_tf.landscape.hessian import hessian_vector_product
from advrush_tf.landscape.meter import (
    CurvatureMeter,
    CurvatureMetric,
    measure_curvature,
)
from advrush_tf.landscape.surfaces import loss_cut, loss_surface

__all__ = [
    "CurvatureMeter",
    "CurvatureMetric",
    "hessian_vector_product",
    "loss_cut",
    "loss_surface",
    "measure_curvature",
]
