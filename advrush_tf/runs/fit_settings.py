"""The settings of a fit: a recipe, and what replaces parts of it."""

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from typing import Any

from advrush_tf.attacks.pgd import SignAscent, Start
from advrush_tf.errors import UserError
from advrush_tf.fit.objectives import Objective, ObjectiveName
from advrush_tf.nn.cell_network import Stem, has_room_for_auxiliary
from advrush_tf.runs.recipes import (
    COMMON,
    DECAYS,
    NETWORKS,
    RECIPES,
    RECIPES_OF_NETWORKS,
    NetworkName,
    Schedule,
    Selection,
)
from advrush_tf.runs.settings import Precision, Settings


@dataclasses.dataclass(frozen=True)
class FitSettings(Settings):
    """What determines a fit's outcome; made by `fit_settings` from a recipe.

    None means that a field has no use with this objective or network.

    Attributes:
        objective: what is minimised.
        network: what is fitted.
        dataset: name or path of the data set, see `load_dataset`.
        image_size: side of the images in pixels, see `load_dataset`.
        genotype: name or path of the genotype, see `get_genotype`.
        stem, init_channels, num_cells, drop_path, recompute_cells: see `CellNetwork`.
        auxiliary_weight: of the auxiliary head's loss, 0 for no head.
        normalise: whether the network normalises by the data set's mean and deviation.
        batch_size: images per batch.
        epochs: length of the fit.
        augment: whether training images are cropped and flipped as usual.
        cutout: side of the cutout square in pixels, 0 for none.
        schedule: how the learning rate changes.
        learning_rate: the first, or the one-cycle schedule's largest.
        learning_rate_min: where the cosine ends.
        milestones: shares of the epochs where a piecewise rate drops.
        decay: factor by which it then drops, and an exponential one in each epoch.
        momentum, weight_l2, clip_norm: see `MomentumSGD`; a clip_norm of 0 does not
            clip.
        epsilon: radius of all perturbations, of fitting and of measuring.
        step_size, attack_steps, start: of the attack of the fit, see `SignAscent`.
        beta: see `TRADES` and `MART`.
        label_smoothing: see `Objective`.
        awp_gamma, ema_decay: see `AdvRushFitModel`.
        eval_steps, eval_step_size: of the PGD that measures, from a uniform start.
        validation_portion: share of the training split that is held out.
        robust_eval_every: epochs from one measurement on that part to the next.
        select_by: which accuracy there chooses the best weights.
        test_images: how many images of the test split the final report uses, 0 for all.
        seed: of split, order, augmentation, attacks and initial weights.
        precision: arithmetic of the network.
        jit_compile: whether to compile with XLA.
        sync_batch_norm: whether replicas share batch normalisation's statistics.

    Raises:
        UserError: a value is out of range.
    """

    objective: ObjectiveName
    network: NetworkName
    dataset: str
    image_size: int | None
    genotype: str | None
    stem: Stem | None
    init_channels: int
    num_cells: int | None
    recompute_cells: bool | None
    drop_path: float | None
    auxiliary_weight: float | None
    normalise: bool
    batch_size: int
    epochs: int
    augment: bool
    cutout: int | None
    schedule: Schedule
    learning_rate: float
    learning_rate_min: float
    milestones: tuple[float, ...]
    decay: float
    momentum: float
    weight_l2: float
    clip_norm: float
    epsilon: float
    step_size: float | None
    attack_steps: int | None
    start: Start | None
    beta: float | None
    label_smoothing: float
    awp_gamma: float
    ema_decay: float
    eval_steps: int
    eval_step_size: float
    validation_portion: float
    robust_eval_every: int
    select_by: Selection
    test_images: int
    seed: int
    precision: Precision
    jit_compile: bool
    sync_batch_norm: bool

    def check(self) -> None:
        self.require_image_size()
        self.require_positive(*self._given(_POSITIVE))
        self.require_not_negative(*self._given(_NOT_NEGATIVE))
        self.require_share(*self._given(_SHARES))
        self.require_seed()
        self.require_recomputation()
        self.require("epsilon", self.epsilon <= 1, "at most 1, as images are in [0, 1]")
        self.require(
            "validation_portion", 0 < self.validation_portion < 1, "between 0 and 1"
        )
        self.require(
            "milestones",
            len(self.milestones) > 0
            and all(0 < share < 1 for share in self.milestones)
            and list(self.milestones) == sorted(self.milestones),
            "one or more rising shares of the epochs, each between 0 and 1",
        )
        self.require(
            "learning_rate_min",
            self.learning_rate_min <= self.learning_rate,
            f"at most learning_rate, {self.learning_rate}",
        )

    def _given(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if getattr(self, name) is not None]

    def for_images(self, image_shape: Sequence[int]) -> "FitSettings":
        """Settles what a recipe leaves to the images.

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
        return dataclasses.replace(self, cutout=cutout, auxiliary_weight=weight)

    def make_objective(self) -> Objective:
        """The objective with its hyper-parameters."""
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


_POSITIVE = (
    *("init_channels", "num_cells", "batch_size", "epochs", "learning_rate", "decay"),
    *("epsilon", "step_size", "attack_steps", "eval_steps", "eval_step_size"),
    "robust_eval_every",
)
_NOT_NEGATIVE = (
    *("auxiliary_weight", "cutout", "learning_rate_min", "weight_l2", "clip_norm"),
    *("beta", "awp_gamma", "test_images"),
)
_SHARES = ("drop_path", "momentum", "label_smoothing", "ema_decay")

_CUTOUT = 16
_AUXILIARY_WEIGHT = 0.4


def fit_settings(
    objective: ObjectiveName | str = ObjectiveName.PGD,
    network: NetworkName | str = NetworkName.CELLS,
    **given: Any,
) -> FitSettings:
    """The recipe of an objective, with some fields replaced.

    With another epsilon, given or the network's usual one, steps whose length is not
    given keep their share of it.

    Args:
        objective: an `ObjectiveName` or its value.
        network: a `NetworkName` or its value.
        **given: fields of `FitSettings`; None leaves the recipe's value.

    Raises:
        UserError: a field has no use with this objective or network, or a value is out
            of range.
    """
    named: ObjectiveName = _choice("objective", objective)
    built: NetworkName = _choice("network", network)
    given = {
        name: _choice(name, value) for name, value in given.items() if value is not None
    }
    objective_recipe = {**COMMON, **RECIPES[named]}
    together = RECIPES_OF_NETWORKS.get((built, named), {})
    recipe = {**objective_recipe, **NETWORKS[built], **together}
    for name in given:
        if recipe[name] is None and not _is_settled_later(name, built):
            raise UserError(
                f"--{name} has no use with --objective={named} and "
                f"--network={built}; leave it out."
            )
    schedule = given.get("schedule", recipe["schedule"])
    for name, readers in _READERS.items():
        if name in given and schedule not in readers:
            raise UserError(f"--{name} has no use with --schedule={schedule}.")
    recipe["decay"] = DECAYS.get(schedule, recipe["decay"])
    ratio = given.get("epsilon", recipe["epsilon"]) / objective_recipe["epsilon"]
    for name in ("step_size", "eval_step_size"):
        if recipe[name] is not None:
            recipe[name] *= ratio
    return FitSettings(objective=named, network=built, **(recipe | given))


# The schedules that read a field.
_READERS: Mapping[str, Sequence[Schedule]] = {
    "milestones": [Schedule.PIECEWISE],
    "decay": [Schedule.PIECEWISE, Schedule.EXPONENTIAL],
    "learning_rate_min": [Schedule.COSINE],
}

_CHOICES: Mapping[str, type[enum.StrEnum]] = {
    "objective": ObjectiveName,
    "network": NetworkName,
    "stem": Stem,
    "schedule": Schedule,
    "start": Start,
    "select_by": Selection,
    "precision": Precision,
}


def _choice(name: str, value: Any) -> Any:
    """A member of the enum of a field that has one; any other value as it is."""
    if name not in _CHOICES:
        return value
    try:
        return _CHOICES[name](value)
    except ValueError:
        allowed = ", ".join(_CHOICES[name])
        raise UserError(f"--{name} is {value}; it must be one of {allowed}.") from None


def _is_settled_later(name: str, network: NetworkName) -> bool:
    """Whether None in a recipe only waits for the images."""
    if name == "auxiliary_weight":
        return network is not NetworkName.RESNET18
    return name in ("cutout", "image_size")
