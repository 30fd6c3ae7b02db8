"""Attacks on classifiers: PGD, APGD, FAB, Square, AutoAttack and CleverHans'.

May import `training`, `nn` and the single files; never `search`, `fit`, `data` or
`runs`. Begin with `base` and `iterative`; each attack is a module of its name.
"""

from advrush_tf.attacks.apgd import APGD
from advrush_tf.attacks.autoattack import AutoAttack
from advrush_tf.attacks.base import Attack
from advrush_tf.attacks.fab import FAB
from advrush_tf.attacks.geometry import Norm, Radius
from advrush_tf.attacks.square import Square

__all__ = [
    "APGD",
    "FAB",
    "Attack",
    "AutoAttack",
    "Norm",
    "Radius",
    "Square",
]
