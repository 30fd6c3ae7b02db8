"""Networks: kernels, blocks, the mixed operation, the supernet and fixed networks.

May import `genotypes` and the single files. Begin with `mixed_op` and `supernet` for
the search, with `cell` and `cell_network` for what is fitted.
"""

from advrush_tf.nn.cell_network import CellNetwork
from advrush_tf.nn.resnet import ResNet18
from advrush_tf.nn.supernet import Supernet

__all__ = [
    "CellNetwork",
    "ResNet18",
    "Supernet",
]
