"""The settings of a fit; `recipes` makes them."""

import dataclasses
import enum
from collections.abc import Sequence
from typing import Any, ClassVar

import attrs

from advrush_tf.attacks.geometry import Radius
from advrush_tf.attacks.pgd import SignAscent, Start, usual_step_size
from advrush_tf.fit.objectives import Objective, ObjectiveName
from advrush_tf.nn.cell_network import Stem, has_room_for_auxiliary
from advrush_tf.runs.search_settings import (
    IMAGE_SIZE,
    SYNC_BATCH_NORM,
    TRAIN_IMAGES,
)
from advrush_tf.runs.settings import (
    INNER_SHARE,
    NO_XLA,
    RADIUS,
    SEED,
    SHARE,
    Check,
    Precision,
    Settings,
    ge,
    gt,
    le,
    path_setting,
    setting,
)


class NetworkName(enum.StrEnum):
    """The network that is fitted: a genotype's, its ImageNet form, or the baseline."""

    CELLS = "cells"
    IMAGENET = "imagenet"
    RESNET18 = "resnet18"


class Schedule(enum.StrEnum):
    """The course of the learning rate."""

    PIECEWISE = "piecewise"
    COSINE = "cosine"
    ONE_CYCLE = "one_cycle"
    EXPONENTIAL = "exponential"


class Selection(enum.StrEnum):
    """The validation accuracy by which the best weights are chosen."""

    ROBUST = "robust"
    CLEAN = "clean"


def _are_milestones(shares: tuple[float, ...]) -> bool:
    inside = all(0 < share < 1 for share in shares)
    return bool(shares) and inside and list(shares) == sorted(shares)


_MILESTONES = Check(
    _are_milestones, "one or more rising shares of the epochs, each between 0 and 1"
)
_CUTOUT = 16
_AUXILIARY_WEIGHT = 0.4


@attrs.frozen
class FitSettings(Settings):
    """Everything that determines a fit's outcome; the defaults are PGD's recipe.

    None means that a field has no use with this objective, network or model, or waits
    for the size of the images.

    Raises:
        UserError: a value is out of range.
    """

    headings: ClassVar = {
        "objective": "Recipe",
        "dataset": "Images",
        "genotype": "Network",
        "batch_size": "Length and augmentation",
        "schedule": "Optimizer",
        "epsilon": "Objective",
        "eval_steps": "Measuring",
        "seed": "Computation",
    }

    objective: ObjectiveName = setting(
        ObjectiveName.PGD, "Objective that is minimised, and its recipe."
    )
    network: NetworkName | None = setting(
        NetworkName.CELLS, "A genotype's network, its ImageNet form, or the baseline."
    )
    dataset: str = path_setting(
        "cifar10", "As for launch/search.py; the imagenet network has imagenet2012."
    )
    image_size: int | None = setting(None, IMAGE_SIZE, gt(0))
    train_images: int | None = setting(None, TRAIN_IMAGES, gt(1))
    genotype: str | None = path_setting(
        "ADVRUSH",
        "Published name, or path of a genotype.json or of a log.",
        decisive=False,
    )
    model: str | None = path_setting(
        None,
        "A .keras file, of a fit or any other classifier of Keras, whose network is "
        "fitted on in place of a new one.",
        decisive=False,
    )
    stem: Stem | None = setting(Stem.CIFAR, "How the network begins.")
    init_channels: int | None = setting(
        36, "Channels of the first cell.", gt(0), le(10**4)
    )
    num_cells: int | None = setting(20, "Number of cells.", gt(0), le(1000))
    recompute_cells: bool | None = setting(
        False, "Run each cell again in the backward pass: less memory, more time."
    )
    drop_path: float | None = setting(
        0.0, "Largest probability that a path is dropped.", SHARE
    )
    auxiliary_weight: float | None = setting(
        0.0, "Of the auxiliary head's loss, 0 for no head.", ge(0)
    )
    normalise: bool | None = setting(
        False, "Normalise by the data set's mean and deviation."
    )
    batch_size: int = setting(64, "Images per batch.", gt(0))
    epochs: int = setting(200, "Length of the fit.", gt(0), le(10**6))
    augment: bool = setting(True, "Crop, and flip where it makes sense.")
    cutout: int | None = setting(
        0, "Side in pixels of the cutout square, 0 for none.", ge(0)
    )
    schedule: Schedule = setting(Schedule.PIECEWISE, "How the learning rate changes.")
    learning_rate: float = setting(
        0.1, "First learning rate, or the largest of one_cycle.", gt(0)
    )
    learning_rate_min: float = setting(0.0, "Where the cosine ends.", ge(0))
    milestones: tuple[float, ...] = setting(
        (0.5, 0.75), "Shares of the epochs where the piecewise rate drops.", _MILESTONES
    )
    decay: float = setting(
        0.1,
        "Factor of the piecewise rate at a milestone, or of the exponential one in "
        "each epoch.",
        gt(0),
    )
    momentum: float = setting(0.9, "Momentum of the SGD.", SHARE)
    weight_l2: float = setting(1e-4, "L2 coefficient of the weights.", ge(0))
    clip_norm: float = setting(
        5.0, "Largest global norm of the gradient, 0 for any.", ge(0)
    )
    epsilon: Radius = setting(
        0.031,
        "Radius of all perturbations, of fitting and of measuring, such as 8/255; "
        "steps that are not given keep their share of it.",
        RADIUS,
        converter=Radius,
    )
    step_size: float | None = setting(0.01, "Step of the fit's attack.", gt(0))
    attack_steps: int | None = setting(
        7, "Steps of the fit's attack.", gt(0), le(10**6)
    )
    start: Start | None = setting(Start.GAUSSIAN, "Where the fit's attack starts.")
    beta: float | None = setting(
        None, "Weight of the divergence in trades and mart.", ge(0)
    )
    label_smoothing: float = setting(
        0.0, "Share of a label that all classes get.", SHARE
    )
    awp_gamma: float = setting(
        0.0, "Relative adversarial weight perturbation, 0 for none.", ge(0)
    )
    ema_decay: float = setting(0.0, "Decay of the weights' average, 0 for none.", SHARE)
    eval_steps: int = setting(
        20, "Steps of the PGD that measures robust accuracy.", gt(0), le(10**6)
    )
    eval_step_size: float = setting(
        usual_step_size(0.031, 20),
        "Step of the measuring PGD; 2.5 epsilon / eval_steps unless given.",
        gt(0),
    )
    validation_portion: float = setting(
        0.02, "Share of the training split that is held out.", INNER_SHARE
    )
    robust_eval_every: int = setting(
        1, "Epochs from one measurement of accuracies to the next.", gt(0)
    )
    select_by: Selection = setting(
        Selection.ROBUST, "Held-out accuracy that chooses the best weights."
    )
    test_images: int = setting(
        0, "Test images in the final report, drawn evenly; 0 for all.", ge(0)
    )
    seed: int = setting(
        0, "Seed of split, order, augmentation, attacks and initial weights.", *SEED
    )
    precision: Precision | None = setting(
        Precision.FLOAT32, "Arithmetic of the network."
    )
    jit_compile: bool = setting(False, "Compile with XLA.")
    sync_batch_norm: bool | None = setting(True, SYNC_BATCH_NORM)
    sha256: str | None = setting(None, "Of the file of `model`.", flag=False)

    def check(self) -> None:
        recompiled = self.recompute_cells and self.jit_compile
        self.require("recompute_cells", not recompiled, NO_XLA)
        self.require(
            "learning_rate_min",
            self.learning_rate_min <= self.learning_rate,
            f"at most learning_rate, {self.learning_rate}",
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings as JSON types, epsilon as a number."""
        return super().to_dict() | {"epsilon": float(self.epsilon)}

    def for_images(self, image_shape: Sequence[int]) -> "FitSettings":
        """Returns the settings with what a recipe leaves to the images.

        The standard recipe's cutout is half of a small image's side, and its auxiliary
        head is left out where the last reduction cell leaves too few pixels.

        Args:
            image_shape: (height, width, channels).
        """
        cutout, weight = self.cutout, self.auxiliary_weight
        if cutout is None:
            cutout = min(_CUTOUT, min(image_shape[:2]) // 2)
        if weight is None and self.stem is not None and self.num_cells is not None:
            room = has_room_for_auxiliary(image_shape, self.num_cells, self.stem)
            weight = _AUXILIARY_WEIGHT if room else 0.0
        return attrs.evolve(self, cutout=cutout, auxiliary_weight=weight)

    def make_objective(self) -> Objective:
        """Returns the objective with its hyper-parameters."""
        given: dict[str, Any] = {
            "epsilon": self.epsilon,
            "step_size": self.step_size,
            "steps": self.attack_steps,
            "start": self.start,
            "beta": self.beta,
            "label_smoothing": self.label_smoothing,
        }
        kind = self.objective.objective
        fields = {field.name for field in dataclasses.fields(kind)}
        return kind(**{name: given[name] for name in given.keys() & fields})

    @property
    def evaluation_attack(self) -> SignAscent:
        """The PGD that measures robust accuracy."""
        return SignAscent(
            self.epsilon, self.eval_step_size, self.eval_steps, Start.UNIFORM
        )
