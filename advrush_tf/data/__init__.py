"""Data: from a data set, of tfds or of the user's own files, to batches of images.

May import the single files only. Begin with `dataset`, then `pipeline`.
"""

from advrush_tf.data.dataset import ImageDataset, load_dataset
from advrush_tf.data.pipeline import bilevel_pairs, training_batches

__all__ = [
    "ImageDataset",
    "bilevel_pairs",
    "load_dataset",
    "training_batches",
]
