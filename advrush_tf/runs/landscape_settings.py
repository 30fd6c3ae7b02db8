"""The settings of an inspection: what is looked at, and how closely."""

import dataclasses

from advrush_tf.landscape.meter import PROBE_LENGTH
from advrush_tf.runs.settings import Settings, all_distinct, number_or_nan, read_number


@dataclasses.dataclass(frozen=True)
class LandscapeSettings(Settings):
    """What determines an inspection's outcome.

    Attributes:
        model: paths of .keras files or of searches' workdirs, whose supernet is taken.
        dataset: name or path of the data set, see `load_dataset`.
        image_size: side of the images in pixels, see `load_dataset`.
        test_images: images of the test split that are looked at, from its first on.
        batch_size: images at a time.
        h: length of the penalty's probe, in [0, 1] units.
        top: number of eigenvalues of each image's Hessian.
        lanczos_steps: Hessian-vector products of an image and probe, `top` or more.
        probes: random starts of each image, for the trace and the spectral density.
        epsilon: radius of the attack that cuts follow, in [0, 1] units, a number or a
            fraction such as 8/255; surfaces reach twice as far.
        surface_points: points of a surface along each of its directions, odd.
        cut_points: points of a cut, one more than a multiple of 3.
        sample_genotypes: random genotypes that share the weights of the supernet,
            which then is the only search's workdir among the models; 0 for none.
        path_epochs: epochs in which the supernet's weights are trained for single
            architectures before any is sampled, see `train_paths`; 0 for none.
        sample_images: test images for the accuracies of each of them.
        sample_curvature_images: test images for the curvature of each of them.
        seed: of all random numbers.
        sha256: of the models' files; the run fills it in.

    Raises:
        UserError: a value is out of range.
    """

    model: tuple[str, ...] = ()
    dataset: str = "cifar10"
    image_size: int | None = None
    test_images: int = 64
    batch_size: int = 16
    h: float = PROBE_LENGTH
    top: int = 5
    lanczos_steps: int = 20
    probes: int = 1
    epsilon: str = "8/255"
    surface_points: int = 21
    cut_points: int = 31
    sample_genotypes: int = 0
    path_epochs: int = 20
    sample_images: int = 256
    sample_curvature_images: int = 16
    seed: int = 0
    sha256: tuple[str, ...] = ()

    def check(self) -> None:
        self.require_image_size()
        self.require("model", bool(self.model), "one or more models")
        self.require("model", all_distinct(self.model), "different models")
        self.require_positive(*_POSITIVE)
        # Of fewer there is no rank correlation.
        enough = self.sample_genotypes == 0 or self.sample_genotypes >= 4
        self.require("sample_genotypes", enough, "0, or 4 or more")
        self.require_not_negative("path_epochs")
        self.require_seed()
        self.require(
            "lanczos_steps",
            self.lanczos_steps >= self.top,
            f"{self.top} (--top) or more",
        )
        odd = self.surface_points >= 3 and self.surface_points % 2 == 1
        self.require("surface_points", odd, "3, 5, 7 or so on")
        thirds = self.cut_points >= 4 and self.cut_points % 3 == 1
        self.require("cut_points", thirds, "4, 7, 10 or so on")
        self.require(
            "epsilon", 0 < number_or_nan(self.epsilon) <= 1, "in (0, 1], such as 8/255"
        )

    @property
    def radius(self) -> float:
        """The number that `epsilon` means."""
        return read_number(self.epsilon)


_POSITIVE = (
    *("test_images", "batch_size", "h", "top", "probes"),
    *("sample_images", "sample_curvature_images"),
)
