"""The settings of an evaluation of robustness."""

import dataclasses
from pathlib import Path

from advrush_tf.attacks.catalogue import check_attack_name, named_attack
from advrush_tf.attacks.geometry import Norm
from advrush_tf.errors import UserError
from advrush_tf.runs.settings import Settings, all_distinct, number_or_nan, read_number

# Below it floats do not tell a ball's images apart.
_SMALLEST = 1e-6


@dataclasses.dataclass(frozen=True)
class AttackSettings(Settings):
    """What determines an evaluation's outcome.

    Attributes:
        model: path of the .keras file that is measured.
        source_model: paths of other models; what is crafted on each is measured on
            all.
        dataset: name or path of the data set, see `load_dataset`.
        image_size: side of the images in pixels, see `load_dataset`.
        test_images: images of the test split, from its first on; 0 for all.
        attacks: names of the attacks, see `catalogue`.
        norm: of the ball.
        epsilon: its radius in [0, 1] units, a number or a fraction such as 8/255.
        epsilons: further radii, for the robustness curve; 0 is no attack.
        batch_size: images at a time.
        checks: whether the model is probed for signs of a wrong evaluation.
        save_images: whether the adversarial images are kept and drawn.
        seed: of all random numbers.
        sha256: of the model files, in the order of `model` and `source_model`; the
            run fills it in.

    Raises:
        UserError: a value is out of range.
    """

    model: str = ""
    source_model: tuple[str, ...] = ()
    dataset: str = "cifar10"
    image_size: int | None = None
    test_images: int = 0
    attacks: tuple[str, ...] = ("fgsm", "pgd20", "autoattack")
    norm: Norm = Norm.LINF
    epsilon: str = "8/255"
    epsilons: tuple[str, ...] = ()
    batch_size: int = 128
    checks: bool = True
    save_images: bool = False
    seed: int = 0
    sha256: tuple[str, ...] = ()

    def check(self) -> None:
        self.require_image_size()
        self.require("model", bool(self.model), "the path of a .keras file")
        paths = [Path(path).resolve() for path in (self.model, *self.source_model)]
        self.require(
            "source_model", all_distinct(paths), "other models, each named once"
        )
        self.require_not_negative("test_images")
        self.require_positive("batch_size")
        self.require_seed()
        self._check_radii()
        self.require("attacks", bool(self.attacks), "at least one attack")
        self.require("attacks", all_distinct(self.attacks), "attacks named once each")
        try:
            for name in self.attacks:
                check_attack_name(name)
                named_attack(name, self.norm, self.radius(self.epsilon))
        except ValueError as error:
            raise UserError(f"--attacks: {error}.") from None

    def _check_radii(self) -> None:
        allowed = "in (0, 1], a number or a fraction such as 8/255"
        self.require("epsilon", _SMALLEST <= number_or_nan(self.epsilon) <= 1, allowed)
        radii = [number_or_nan(text) for text in self.epsilons]
        self.require(
            "epsilons",
            all(r == 0 or _SMALLEST <= r <= 1 for r in radii) and all_distinct(radii),
            "different numbers or fractions in [0, 1], such as 0,2/255,8/255",
        )

    def radius(self, epsilon: str) -> float:
        """The number that a text such as 8/255 means."""
        return read_number(epsilon)

    @property
    def curve(self) -> list[str]:
        """All radii of the curve in ascending order, without 0; one is no curve."""
        radii = {number_or_nan(text): text for text in (*self.epsilons, self.epsilon)}
        return [radii[number] for number in sorted(radii) if number > 0]
