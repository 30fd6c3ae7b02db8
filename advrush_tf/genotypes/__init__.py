"""Genotypes: discrete cells as data, and the rules by which they are derived.

May import the single files only. Begin with `search_space`, which says what a cell is
made of and which edges are kept, then `genotype`.
"""

from advrush_tf.genotypes.genotype import Genotype, get_genotype, random_genotype
from advrush_tf.genotypes.search_space import PRIMITIVES

__all__ = [
    "PRIMITIVES",
    "Genotype",
    "get_genotype",
    "random_genotype",
]
