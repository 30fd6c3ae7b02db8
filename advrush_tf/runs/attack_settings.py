"""The settings of an evaluation of robustness."""

from pathlib import Path

import attrs

from advrush_tf.attacks.catalogue import ALLOWED, check_attack_name, named_attack
from advrush_tf.attacks.geometry import Norm, Radius
from advrush_tf.errors import UserError
from advrush_tf.runs.search_settings import IMAGE_SIZE
from advrush_tf.runs.settings import (
    RADIUS,
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


def _read_radii(texts: tuple[str, ...]) -> tuple[Radius, ...]:
    return tuple(map(Radius, texts))


def _are_radii(radii: tuple[Radius, ...]) -> bool:
    """Returns True for different radii, of which one may be 0."""
    return all(r == 0 or _SMALLEST <= r <= 1 for r in radii) and all_distinct(radii)


_RADII = Check(
    _are_radii, "different numbers or fractions in [0, 1], such as 0,2/255,8/255"
)


@attrs.frozen
class AttackSettings(Settings):
    """Everything that determines an evaluation's outcome.

    Raises:
        UserError: a value is out of range.
    """

    model: str = path_setting(
        "",
        "The .keras file of the classifier that is measured.",
        Check(bool, "the path of a .keras file"),
    )
    source_model: tuple[str, ...] = path_setting(
        (), "Other .keras files: what is crafted on each is measured on all."
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
        RADIUS,
        ge(_SMALLEST),
        converter=Radius,
    )
    epsilons: tuple[Radius, ...] = setting(
        (),
        "More radii, such as 0,2/255,4/255, for a robustness curve.",
        _RADII,
        converter=_read_radii,
    )
    batch_size: int = setting(128, "Images at a time, on each device.", gt(0))
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
        try:
            for name in self.attacks:
                check_attack_name(name)
                named_attack(name, self.norm, self.epsilon)
        except ValueError as error:
            raise UserError(f"--attacks: {error}.") from None

    @property
    def curve(self) -> list[Radius]:
        """All radii of the curve in ascending order, without 0; one is no curve."""
        # Of equal ones a set keeps the first.
        radii = {self.epsilon, *self.epsilons}
        return sorted(radius for radius in radii if radius > 0)
