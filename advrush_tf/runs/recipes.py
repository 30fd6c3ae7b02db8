"""How each objective and network is usually fitted: the defaults of a fit's settings.

None says that a field has no use, or waits for the size of the images.
"""

import enum
from collections.abc import Mapping
from typing import Any

from advrush_tf.attacks.pgd import Start
from advrush_tf.fit.objectives import ObjectiveName
from advrush_tf.nn.cell_network import Stem
from advrush_tf.runs.settings import Precision


class NetworkName(enum.StrEnum):
    """What is fitted: a genotype's network, its ImageNet form, or the baseline."""

    CELLS = "cells"
    IMAGENET = "imagenet"
    RESNET18 = "resnet18"


class Schedule(enum.StrEnum):
    """How the learning rate changes."""

    PIECEWISE = "piecewise"
    COSINE = "cosine"
    ONE_CYCLE = "one_cycle"
    EXPONENTIAL = "exponential"


class Selection(enum.StrEnum):
    """The validation accuracy by which the best weights are chosen."""

    ROBUST = "robust"
    CLEAN = "clean"


COMMON: Mapping[str, Any] = {
    "dataset": "cifar10",
    "image_size": None,
    "augment": True,
    "learning_rate_min": 0.0,
    "milestones": (0.5, 0.75),
    "decay": 0.1,
    "momentum": 0.9,
    "clip_norm": 5.0,
    "epsilon": 0.031,
    "label_smoothing": 0.0,
    "awp_gamma": 0.0,
    "ema_decay": 0.0,
    "eval_steps": 20,
    "eval_step_size": 0.01,
    "validation_portion": 0.02,
    "test_images": 0,
    "seed": 0,
    "precision": Precision.FLOAT32,
    "jit_compile": False,
    "sync_batch_norm": True,
}
# The official code's for its PGD and TRADES; DARTS' for standard.
_STANDARD: dict[str, Any] = {
    "normalise": True,
    "batch_size": 96,
    "epochs": 600,
    "cutout": None,
    "schedule": Schedule.COSINE,
    "learning_rate": 0.025,
    "weight_l2": 3e-4,
    "drop_path": 0.2,
    "auxiliary_weight": None,
    "step_size": None,
    "attack_steps": None,
    "start": None,
    "beta": None,
    "robust_eval_every": 10,
    # Its robust accuracy is highest before it has learnt anything.
    "select_by": Selection.CLEAN,
}
_PGD: dict[str, Any] = {
    "normalise": False,
    "batch_size": 64,
    "epochs": 200,
    "cutout": 0,
    "schedule": Schedule.PIECEWISE,
    "learning_rate": 0.1,
    "weight_l2": 1e-4,
    "drop_path": 0.0,
    "auxiliary_weight": 0.0,
    "step_size": 0.01,
    "attack_steps": 7,
    "start": Start.GAUSSIAN,
    "beta": None,
    "robust_eval_every": 1,
    "select_by": Selection.ROBUST,
}
RECIPES: Mapping[ObjectiveName, Mapping[str, Any]] = {
    ObjectiveName.STANDARD: _STANDARD,
    ObjectiveName.PGD: _PGD,
    ObjectiveName.TRADES: {**_PGD, "beta": 6.0},
    # Optimizer and schedule of Wang et al.'s ResNet-18; the attack is PGD's above.
    ObjectiveName.MART: {
        **_PGD,
        "batch_size": 128,
        "epochs": 120,
        "learning_rate": 0.01,
        "weight_l2": 3.5e-3,
        "milestones": (0.625, 0.75),
        "beta": 5.0,
    },
    # Attack and schedule of Wong et al.'s ResNet-18.
    ObjectiveName.FGSM_RS: {
        **_PGD,
        "batch_size": 128,
        "epochs": 30,
        "schedule": Schedule.ONE_CYCLE,
        "learning_rate": 0.2,
        "weight_l2": 5e-4,
        "epsilon": 8 / 255,
        "step_size": 10 / 255,
        "attack_steps": 1,
        "start": Start.UNIFORM,
    },
}
NETWORKS: Mapping[NetworkName, Mapping[str, Any]] = {
    NetworkName.CELLS: {
        "genotype": "ADVRUSH",
        "stem": Stem.CIFAR,
        "init_channels": 36,
        "num_cells": 20,
        "recompute_cells": False,
    },
    NetworkName.IMAGENET: {
        "genotype": "ADVRUSH",
        "dataset": "imagenet2012",
        "stem": Stem.IMAGENET,
        "init_channels": 48,
        "num_cells": 14,
        "recompute_cells": False,
        # The usual radius of RobustBench on ImageNet.
        "epsilon": 4 / 255,
    },
    NetworkName.RESNET18: {
        "genotype": None,
        "stem": None,
        "init_channels": 64,
        "num_cells": None,
        "recompute_cells": None,
        "drop_path": None,
        "auxiliary_weight": None,
    },
}
# DARTS' for ImageNet, its paper's 250 epochs.
RECIPES_OF_NETWORKS: Mapping[tuple[NetworkName, ObjectiveName], Mapping[str, Any]] = {
    (NetworkName.IMAGENET, ObjectiveName.STANDARD): {
        "batch_size": 128,
        "epochs": 250,
        "cutout": 0,
        "schedule": Schedule.EXPONENTIAL,
        "learning_rate": 0.1,
        "weight_l2": 3e-5,
        "drop_path": 0.0,
        "label_smoothing": 0.1,
    },
}
# The decay of schedules for which it is not COMMON's.
DECAYS: Mapping[Schedule, float] = {Schedule.EXPONENTIAL: 0.97}
