"""The settings of an inspection: what is looked at, and how closely."""

from typing import ClassVar

import attrs

from advrush_tf.attacks.geometry import Radius
from advrush_tf.landscape.meter import PROBE_LENGTH
from advrush_tf.runs.search_settings import IMAGE_SIZE
from advrush_tf.runs.settings import (
    RADIUS,
    SEED,
    Check,
    Settings,
    all_distinct,
    ge,
    gt,
    le,
    path_setting,
    setting,
)


@attrs.frozen
class LandscapeSettings(Settings):
    """Everything that determines an inspection's outcome.

    Raises:
        UserError: a value is out of range.
    """

    headings: ClassVar = {
        "model": "Models",
        "dataset": "Images",
        "probe_length": "Curvature",
        "epsilon": "Surfaces and cuts",
        "sample_genotypes": "Random genotypes",
        "seed": "Computation",
    }

    model: tuple[str, ...] = path_setting(
        (),
        "A .keras file, or the workdir of a search, whose supernet is taken; may be "
        "repeated.",
        Check(bool, "one or more models"),
        Check(all_distinct, "different models"),
        decisive=False,
        repeated=True,
    )
    dataset: str = path_setting(
        "cifar10", "As for launch/search.py; what the models were fitted on."
    )
    image_size: int | None = setting(None, IMAGE_SIZE, gt(0))
    test_images: int = setting(
        64, "Images of the test split that are looked at, drawn evenly.", gt(0)
    )
    batch_size: int = setting(
        16, "Images at a time, of the models.", gt(0), decisive=False
    )
    probe_length: float = setting(
        PROBE_LENGTH, "Length of the penalty's probe, in [0, 1] units.", gt(0)
    )
    top: int = setting(5, "Number of eigenvalues of each image's Hessian.", gt(0))
    lanczos_steps: int = setting(
        20,
        "Lanczos steps of each image and probe, a Hessian-vector product each, `top` "
        "or more; four more products estimate the rest of the trace.",
    )
    probes: int = setting(
        1,
        "Random starts of each image, for the trace and the spectral density.",
        gt(0),
    )
    epsilon: Radius = setting(
        "8/255",
        "Radius of the attack that cuts follow, in [0, 1] units, such as 8/255; "
        "surfaces reach twice as far.",
        RADIUS,
        converter=Radius,
    )
    surface_points: int = setting(
        21,
        "Points of a surface along each direction, an odd number.",
        Check(lambda points: points >= 3 and points % 2 == 1, "3, 5, 7 or so on"),
        le(1001),
    )
    cut_points: int = setting(
        31,
        "Points of a cut along the attack's direction, one more than a multiple of 3.",
        Check(lambda points: points >= 4 and points % 3 == 1, "4, 7, 10 or so on"),
        le(10**4),
    )
    sample_genotypes: int = setting(
        0,
        "Random genotypes that are measured with the weights of a supernet: one of "
        "the models is then a search's workdir. 0 for none.",
        # Of fewer there is no rank correlation.
        Check(lambda count: count == 0 or count >= 4, "0, or 4 or more"),
    )
    path_epochs: int = setting(
        20,
        "Epochs in which the supernet's weights first learn to serve single "
        "architectures, a random one a step; 0 for none.",
        ge(0),
    )
    sample_images: int = setting(
        256, "Test images for the accuracies of each sampled genotype.", gt(0)
    )
    sample_curvature_images: int = setting(
        16, "Test images for the curvature of each of them.", gt(0)
    )
    seed: int = setting(0, "Seed of all random numbers.", *SEED)
    sha256: tuple[str, ...] = setting((), "Of the models' files.", flag=False)

    def check(self) -> None:
        self.require(
            "lanczos_steps",
            self.lanczos_steps >= self.top,
            f"{self.top} (--top) or more",
        )
