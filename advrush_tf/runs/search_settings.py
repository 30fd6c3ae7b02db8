"""The settings of a search: the official recipe."""

from typing import ClassVar

import attrs

from advrush_tf.data.source import OWN_FILES, WELL_KNOWN
from advrush_tf.errors import UserError
from advrush_tf.genotypes.search_space import (
    ALL_PRIMITIVES,
    PRIMITIVES,
    check_primitives,
)
from advrush_tf.runs.settings import (
    INNER_SHARE,
    NO_XLA,
    SEED,
    SHARE,
    Precision,
    Settings,
    ge,
    gt,
    le,
    path_setting,
    setting,
)
from advrush_tf.search.penalty import Penalty

TRAIN_IMAGES = (
    "Images of the training split, drawn evenly, for a quick trial; all unless given."
)
IMAGE_SIZE = (
    "Side of the images in pixels: the set's own unless given, 224 where they have "
    "many sizes; to make them smaller, areas are averaged."
)
SYNC_BATCH_NORM = (
    "With several replicas, normalise by the statistics of the whole batch; otherwise "
    "each by those of its part of it, which is faster."
)


@attrs.frozen
class SearchSettings(Settings):
    """Everything that determines a search's outcome.

    Raises:
        UserError: a value is out of range.
    """

    headings: ClassVar = {
        "dataset": "Images",
        "batch_size": "Length",
        "init_channels": "Supernet",
        "train_portion": "Halves and augmentation",
        "learning_rate": "Optimizer of the weights",
        "alpha_learning_rate": "Optimizer of the alphas",
        "gamma": "Curvature penalty",
        "recompute_cells": "Computation",
    }

    dataset: str = path_setting(
        "cifar10",
        f"{', '.join(WELL_KNOWN)}, another tfds image classification set (perhaps with "
        f"its splits, as name@train[:80%],train[80%:]), or the path of {OWN_FILES}.",
    )
    image_size: int | None = setting(None, IMAGE_SIZE, gt(0))
    train_images: int | None = setting(None, TRAIN_IMAGES, gt(1))
    batch_size: int = setting(
        32, "Images per batch, of each half of the training data.", gt(0)
    )
    epochs: int = setting(60, "Length of the search.", gt(0), le(10**6))
    warmup_epochs: int = setting(50, "Epochs before the penalty is switched on.", ge(0))
    init_channels: int = setting(16, "Channels of the first cell.", gt(0), le(10**4))
    num_cells: int = setting(8, "Number of cells of the supernet.", gt(0), le(1000))
    num_nodes: int = setting(4, "Intermediate nodes of a cell.", gt(0), le(100))
    stem_multiplier: int = setting(
        3, "Width of the stem, in init_channels.", gt(0), le(100)
    )
    primitives: tuple[str, ...] = setting(
        PRIMITIVES, f"Candidate operations, of {', '.join(ALL_PRIMITIVES)}."
    )
    train_portion: float = setting(
        0.5, "Share of the training data that trains the weights.", INNER_SHARE
    )
    augment: bool = setting(True, "Crop, and flip where it makes sense.")
    cutout: int = setting(0, "Side in pixels of the cutout square, 0 for none.", ge(0))
    learning_rate: float = setting(
        0.025, "Initial learning rate of the weights.", gt(0)
    )
    learning_rate_min: float = setting(
        0.001, "End of the cosine of the weights' learning rate.", ge(0)
    )
    momentum: float = setting(0.9, "Momentum of the weights' SGD.", SHARE)
    weight_l2: float = setting(3e-4, "L2 coefficient of the weights.", ge(0))
    clip_norm: float = setting(
        5.0, "Largest global norm of the weights' gradient, 0 for any.", ge(0)
    )
    alpha_learning_rate: float = setting(
        3e-4, "Learning rate of the alphas' Adam.", gt(0)
    )
    alpha_beta_1: float = setting(
        0.5, "Decay of the mean gradient in the alphas' Adam.", SHARE
    )
    alpha_beta_2: float = setting(
        0.999, "Decay of the mean square in the alphas' Adam.", SHARE
    )
    alpha_l2: float = setting(1e-3, "L2 coefficient of the alphas.", ge(0))
    gamma: float = setting(
        0.01, "Weight of the curvature penalty; 0 is first-order DARTS.", ge(0)
    )
    lambda_: float = setting(4.0, "Factor inside the curvature penalty.", gt(0))
    h: float = setting(
        1.5, "Length of the penalty's probe, in normalised input units.", gt(0)
    )
    penalty: Penalty = setting(Penalty.NORM, "Penalise the norm or its square.")
    penalty_batch: int = setting(
        0,
        "Images of which a device computes the penalty at a time; the sum is the same, "
        "the memory is not. 0 takes all of its part of a batch, but on a processor "
        "with 32x32 pixels and 16 channels or more the largest number from 8 to 16 "
        "that divides it.",
        ge(0),
    )
    recompute_cells: bool = setting(
        False, "Run each cell again in the backward pass: less memory, more time."
    )
    seed: int = setting(
        0, "Seed of split, order, augmentation and initial weights.", *SEED
    )
    precision: Precision = setting(Precision.FLOAT32, "Arithmetic of the supernet.")
    jit_compile: bool = setting(False, "Compile with XLA, all but the penalty.")
    sync_batch_norm: bool = setting(True, SYNC_BATCH_NORM)

    def check(self) -> None:
        recompiled = self.recompute_cells and self.jit_compile
        self.require("recompute_cells", not recompiled, NO_XLA)
        self.require(
            "learning_rate_min",
            self.learning_rate_min <= self.learning_rate,
            f"at most learning_rate, {self.learning_rate}",
        )
        self.require(
            "warmup_epochs",
            self.warmup_epochs < self.epochs
            or (self.gamma == 0 and self.warmup_epochs == self.epochs),
            f"less than epochs, {self.epochs}, or no epoch has the penalty",
        )
        self.require(
            "penalty_batch",
            self.penalty_batch == 0 or self.batch_size % self.penalty_batch == 0,
            f"0 or a divisor of batch_size, {self.batch_size}",
        )
        try:
            check_primitives(self.primitives)
        except ValueError as error:
            raise UserError(f"--primitives: {error}") from None

    def check_replicas(self, replicas: int) -> None:
        """Raises UserError where `penalty_batch` does not fit a replica's images."""
        own, size = self.batch_size // replicas, self.penalty_batch
        self.require(
            "penalty_batch",
            size == 0 or size >= own or own % size == 0,
            f"0 or a divisor of {own}, each replica's part of a batch",
        )
