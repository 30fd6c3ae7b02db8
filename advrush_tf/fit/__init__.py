"""Fit: AdvRushFitModel and its objectives.

May import `attacks`, `training`, `nn` and what those may. Begin with `objectives`.
"""

from advrush_tf.fit.model import AdvRushFitModel
from advrush_tf.fit.objectives import FGSMRS, MART, PGD, TRADES, Standard

__all__ = [
    "FGSMRS",
    "MART",
    "PGD",
    "TRADES",
    "AdvRushFitModel",
    "Standard",
]
