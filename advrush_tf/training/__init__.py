"""Training: what the search's and the fit's Keras models share.

May import `nn`, `genotypes`, `data` and the single files. Begin with `optimizers`,
PyTorch's rules and the learning-rate schedules.
"""

from advrush_tf.training.optimizers import L2Adam, MomentumSGD

__all__ = [
    "L2Adam",
    "MomentumSGD",
]
