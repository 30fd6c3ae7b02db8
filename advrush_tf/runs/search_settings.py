"""The settings of a search: the official recipe."""

import dataclasses

from advrush_tf.errors import UserError
from advrush_tf.genotypes.search_space import PRIMITIVES, check_primitives
from advrush_tf.runs.settings import Precision, Settings
from advrush_tf.search.penalty import Penalty


@dataclasses.dataclass(frozen=True)
class SearchSettings(Settings):
    """What determines a search's outcome; the defaults are the official recipe.

    Attributes:
        dataset: name or path of the data set, see `load_dataset`.
        image_size: side of the images in pixels, see `load_dataset`.
        batch_size: images per batch, of each half.
        epochs: length of the search.
        warmup_epochs: epochs without the penalty.
        init_channels: channels of the first cell.
        num_cells: number of cells.
        num_nodes: intermediate nodes of a cell.
        stem_multiplier: width of the stem in `init_channels`.
        primitives: candidate operations.
        train_portion: share of the training data in the weight half, in (0, 1).
        augment: whether training images are cropped and flipped as usual.
        cutout: side of the cutout square in pixels, 0 for none.
        learning_rate, learning_rate_min: ends of the weights' cosine.
        momentum, weight_l2, clip_norm: of the weights' optimizer; a clip_norm of 0
            does not clip.
        alpha_learning_rate, alpha_beta_1, alpha_beta_2, alpha_l2: of the alphas' Adam.
        gamma: weight of the penalty, 0 for first-order DARTS.
        lambda_: factor inside the penalty.
        h: length of the probe in normalised input units.
        penalty: norm or squared norm.
        penalty_batch: images of which a device computes the penalty at a time, a
            divisor of its part of a batch; 0 for all at once. The sum is the same, the
            memory is not.
        recompute_cells: whether the backward pass runs each cell again instead of
            keeping what it computed: less memory, more time.
        seed: of split, order, augmentation and initial weights.
        precision: arithmetic of the supernet.
        jit_compile: whether to compile with XLA, all but the penalty.
        sync_batch_norm: whether replicas share batch normalisation's statistics.

    Raises:
        UserError: a value is out of range.
    """

    dataset: str = "cifar10"
    image_size: int | None = None
    batch_size: int = 32
    epochs: int = 60
    warmup_epochs: int = 50
    init_channels: int = 16
    num_cells: int = 8
    num_nodes: int = 4
    stem_multiplier: int = 3
    primitives: tuple[str, ...] = PRIMITIVES
    train_portion: float = 0.5
    augment: bool = True
    cutout: int = 0
    learning_rate: float = 0.025
    learning_rate_min: float = 0.001
    momentum: float = 0.9
    weight_l2: float = 3e-4
    clip_norm: float = 5.0
    alpha_learning_rate: float = 3e-4
    alpha_beta_1: float = 0.5
    alpha_beta_2: float = 0.999
    alpha_l2: float = 1e-3
    gamma: float = 0.01
    lambda_: float = 4.0
    h: float = 1.5
    penalty: Penalty = Penalty.NORM
    penalty_batch: int = 0
    recompute_cells: bool = False
    seed: int = 0
    precision: Precision = Precision.FLOAT32
    jit_compile: bool = False
    sync_batch_norm: bool = True

    def check(self) -> None:
        self.require_image_size()
        self.require_positive(*_POSITIVE)
        self.require_not_negative(*_NOT_NEGATIVE)
        self.require_share("momentum", "alpha_beta_1", "alpha_beta_2")
        self.require_seed()
        self.require_recomputation()
        self.require("train_portion", 0 < self.train_portion < 1, "between 0 and 1")
        self.require(
            "learning_rate_min",
            self.learning_rate_min <= self.learning_rate,
            f"at most learning_rate, {self.learning_rate}",
        )
        self.require(
            "warmup_epochs",
            self.warmup_epochs <= self.epochs,
            f"at most epochs, {self.epochs}",
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


_POSITIVE = (
    *("batch_size", "epochs", "init_channels", "num_cells", "num_nodes"),
    *("stem_multiplier", "learning_rate"),
    *("alpha_learning_rate", "lambda_", "h"),
)
_NOT_NEGATIVE = (
    *("warmup_epochs", "cutout", "learning_rate_min", "weight_l2", "clip_norm"),
    *("alpha_l2", "gamma", "penalty_batch"),
)
