"""Search: AdvRushSearchModel, its alternating step and the curvature penalty.

May import `training`, `nn` and what those may. Begin with `penalty`, the formula, then
`step`, algorithm 1 of the paper, then `model`.
"""

from advrush_tf.search.model import AdvRushSearchModel
from advrush_tf.search.penalty import Penalty, curvature_penalty

__all__ = [
    "AdvRushSearchModel",
    "Penalty",
    "curvature_penalty",
]
