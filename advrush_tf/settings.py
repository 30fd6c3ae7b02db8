"""The settings of a search: the official recipe, checked, kept with the results."""

import dataclasses
import enum
import json
import math
from pathlib import Path
from typing import Any

from advrush_tf.cells import PRIMITIVES, check_primitives
from advrush_tf.errors import UserError
from advrush_tf.files import write_text


class Penalty(enum.StrEnum):
    """Form of the curvature penalty."""

    NORM = "norm"
    SQUARED_NORM = "squared_norm"


class Precision(enum.StrEnum):
    """Arithmetic of the supernet."""

    FLOAT32 = "float32"
    MIXED_BFLOAT16 = "mixed_bfloat16"
    FLOAT64 = "float64"


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """What determines a search's outcome; the defaults are the official recipe.

    Attributes:
        dataset: name or path of the data set, see `load_dataset`.
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
        seed: of split, order, augmentation and initial weights.
        precision: arithmetic of the supernet.
        jit_compile: whether to compile with XLA, all but the penalty.

    Raises:
        UserError: a value is out of range.
    """

    dataset: str = "cifar10"
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
    seed: int = 0
    precision: Precision = Precision.FLOAT32
    jit_compile: bool = False

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if isinstance(value, float):
                self._check(name, math.isfinite(value), "a finite number")
        for name in _POSITIVE:
            self._check(name, getattr(self, name) > 0, "more than 0")
        for name in _NOT_NEGATIVE:
            self._check(name, getattr(self, name) >= 0, "0 or more")
        self._check("train_portion", 0 < self.train_portion < 1, "between 0 and 1")
        self._check("seed", self.seed < 2**32, "less than 2**32")
        for name in ("momentum", "alpha_beta_1", "alpha_beta_2"):
            self._check(name, 0 <= getattr(self, name) < 1, "in [0, 1)")
        self._check(
            "learning_rate_min",
            self.learning_rate_min <= self.learning_rate,
            f"at most learning_rate, {self.learning_rate}",
        )
        self._check(
            "warmup_epochs",
            self.warmup_epochs <= self.epochs,
            f"at most epochs, {self.epochs}",
        )
        try:
            check_primitives(self.primitives)
        except ValueError as error:
            raise UserError(f"primitives: {error}") from None

    def _check(self, name: str, holds: bool, allowed: str) -> None:
        if not holds:
            value = getattr(self, name)
            raise UserError(f"--{name} is {value}; it must be {allowed}.")

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON types."""
        return json.loads(json.dumps(dataclasses.asdict(self)))


_POSITIVE = (
    *("batch_size", "epochs", "init_channels", "num_cells", "num_nodes"),
    *("stem_multiplier", "learning_rate"),
    *("alpha_learning_rate", "lambda_", "h"),
)
_NOT_NEGATIVE = (
    *("warmup_epochs", "cutout", "learning_rate_min", "weight_l2", "clip_norm"),
    *("alpha_l2", "gamma", "seed"),
)


def record_settings(settings: SearchSettings, workdir: Path) -> None:
    """Writes settings.json, or compares with the one that is there.

    Raises:
        UserError: the folder cannot be used, or holds a run with other settings; the
            message shows the difference.
    """
    path, wanted = workdir / "settings.json", settings.to_dict()
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_text(path, json.dumps(wanted, indent=2) + "\n")
        recorded = json.loads(path.read_text())
        if not isinstance(recorded, dict):
            raise ValueError("it holds no settings")
        # Nothing changes, but a folder that cannot be written is noticed now.
        write_text(path, path.read_text())
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}). Delete it if you know that the folder's "
            "search had these settings, or give another --workdir."
        ) from None
    except OSError as error:
        raise UserError(
            f"Cannot use the workdir {workdir}: {error.strerror}. Give a folder that "
            "can be written, --workdir=PATH."
        ) from None
    differences = [
        f"{name} is {recorded.get(name)!r} there and {wanted.get(name)!r} here"
        for name in sorted({*recorded, *wanted})
        if recorded.get(name) != wanted.get(name)
    ]
    if differences:
        raise UserError(
            f"{workdir} holds a search with other settings: {'; '.join(differences)}. "
            "Give another --workdir, or the same settings to resume."
        )
