"""The settings of an evaluation of robustness."""

import math
from pathlib import Path
from typing import ClassVar

import attrs

from advrush_tf.attacks.catalogue import (
    ALLOWED,
    is_stepped,
    named_attack,
)
from advrush_tf.attacks.geometry import Norm, Radius
from advrush_tf.errors import UserError
from advrush_tf.runs.search_settings import IMAGE_SIZE
from advrush_tf.runs.settings import (
    SEED,
    Check,
    Settings,
    all_distinct,
    ge,
    gt,
    path_setting,
    setting,
)

# Below it, float32 rounds the images of a ball to one.
_SMALLEST = 1e-6


# In the L2 norm two images may be any distance apart.
_LARGEST = {Norm.LINF: 1.0, Norm.L2: math.inf}


def _read_radii(texts: tuple[str, ...]) -> tuple[Radius, ...]:
    return tuple(map(Radius, texts))


def _are_radii(radii: tuple[Radius, ...]) -> bool:
    """Returns True for different radii, of which one may be 0."""
    return all(r == 0 or r >= _SMALLEST for r in radii) and all_distinct(radii)


ANY_RADIUS = Check(
    lambda radius: radius >= _SMALLEST,
    f"{_SMALLEST:g} or more, a number or a fraction such as 8/255",
)
_RADII = Check(
    _are_radii, f"different, each 0 or {_SMALLEST:g} or more, such as 0,2/255,8/255"
)


@attrs.frozen
class AttackSettings(Settings):
    """Everything that determines an evaluation's outcome.

    Raises:
        UserError: a value is out of range.
    """

    headings: ClassVar = {
        "model": "Models",
        "dataset": "Images",
        "attacks": "Attacks",
        "batch_size": "Computation and results",
    }

    model: str = path_setting(
        "",
        "The .keras file of the classifier that is measured.",
        Check(bool, "the path of a .keras file"),
        decisive=False,
    )
    source_model: tuple[str, ...] = path_setting(
        (),
        "Other .keras files: what is crafted on each is measured on all.",
        decisive=False,
    )
    dataset: str = path_setting(
        "cifar10", "As for launch/search.py; what the model was fitted on."
    )
    image_size: int | None = setting(None, IMAGE_SIZE, gt(0))
    test_images: int = setting(
        0, "Images of the test split, drawn evenly; 0 for all.", ge(0)
    )
    attacks: tuple[str, ...] = setting(
        ("fgsm", "pgd20", "autoattack"),
        f"Attacks, separated by commas, of {ALLOWED}.",
        Check(bool, "at least one attack"),
        Check(all_distinct, "attacks named once each"),
    )
    norm: Norm = setting(Norm.LINF, "Norm of the perturbations.")
    epsilon: Radius = setting(
        "8/255",
        "Radius of the perturbations in [0, 1] units, such as 8/255.",
        ANY_RADIUS,
        converter=Radius,
    )
    epsilons: tuple[Radius, ...] = setting(
        (),
        "More radii, such as 0,2/255,4/255, for a robustness curve.",
        _RADII,
        converter=_read_radii,
    )
    step_size: float | None = setting(
        None,
        "Step of pgd, bim and mim, at most epsilon; 2.5 epsilon / steps unless given. "
        "At other radii it keeps its share of them.",
        gt(0),
    )
    batch_size: int = setting(
        128, "Images at a time, on each device.", gt(0), decisive=False
    )
    checks: bool = setting(True, "Probe the model for signs of a wrong evaluation.")
    save_images: bool = setting(False, "Keep and draw the adversarial images.")
    seed: int = setting(0, "Seed of all random numbers.", *SEED)
    sha256: tuple[str, ...] = setting(
        (), "Of the files of `model` and `source_model`, in their order.", flag=False
    )

    def check(self) -> None:
        paths = [Path(path).resolve() for path in (self.model, *self.source_model)]
        self.require(
            "source_model", all_distinct(paths), "other models, each named once"
        )
        largest = _LARGEST[self.norm]
        allowed = f"at most {largest:g} in {self.norm}"
        self.require("epsilon", self.epsilon <= largest, allowed)
        self.require("epsilons", max(self.curve) <= largest, allowed)
        # Of the default radius nearly every image is robust.
        self.require(
            "epsilon",
            self.norm is Norm.LINF or self.epsilon != Radius("8/255"),
            f"a usual radius of {self.norm}, such as 0.5",
        )
        for name in self.attacks:
            try:
                named_attack(name, self.norm, self.epsilon, self.step_size)
            except ValueError as error:
                raise UserError(f"--attacks={name}: {error}.") from None
        stepped = any(map(is_stepped, self.attacks))
        self.require(
            "step_size", stepped or not self.step_size, "left out without pgd, bim, mim"
        )

    def step_size_at(self, radius: float) -> float | None:
        """The given step's share of another radius, None if none was given."""
        # Rounding may not make it longer than the radius.
        return self.step_size and min(radius, self.step_size * (radius / self.epsilon))

    @property
    def curve(self) -> list[Radius]:
        """All radii of the curve in ascending order, without 0; one is no curve."""
        # Of equal ones a set keeps the first.
        radii = {self.epsilon, *self.epsilons}
        return sorted(radius for radius in radii if radius > 0)
