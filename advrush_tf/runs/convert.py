"""Turns a checkpoint of the official PyTorch code into a Keras model's file."""

import enum
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from advrush_tf.data.dataset import CIFAR10_MEAN, CIFAR10_STD
from advrush_tf.errors import UserError
from advrush_tf.genotypes.genotype import Genotype, get_genotype
from advrush_tf.nn.cell_network import STEM_MULTIPLIER, CellNetwork, Stem
from advrush_tf.official.checkpoint import read_checkpoint
from advrush_tf.official.weights import assign_network, assign_supernet
from advrush_tf.runs.models import save_model
from advrush_tf.search.model import AdvRushSearchModel

_IMAGE_SIZES = {Stem.CIFAR: 32, Stem.IMAGENET: 224}
_State = Mapping[str, np.ndarray]


class Normalise(enum.StrEnum):
    """By which mean and deviation the converted model normalises its images.

    OFFICIAL is what the official code does before the network: its search normalises as
    for CIFAR-10, its adversarial training on CIFAR and SVHN does not normalise, and its
    ImageNet images are normalised.
    """

    OFFICIAL = "official"
    NONE = "none"
    CIFAR10 = "cifar10"
    CIFAR100 = "cifar100"
    IMAGENET = "imagenet"


# Constants of the official code, rounded as they are there.
_MOMENTS = {
    Normalise.NONE: (None, None),
    Normalise.CIFAR10: (CIFAR10_MEAN, CIFAR10_STD),
    Normalise.CIFAR100: ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    Normalise.IMAGENET: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


@dataclass(frozen=True)
class Architecture:
    """Architecture of a network, by the names and shapes of its state dictionary.

    Attributes:
        supernet: whether it is the search's supernet or the network of a genotype.
        stem: how it begins.
        image_channels: channels of the images.
        init_channels: channels of the first cell.
        num_cells: number of cells.
        num_classes: number of classes.
        auxiliary: whether there is an auxiliary head.
    """

    supernet: bool
    stem: Stem
    image_channels: int
    init_channels: int
    num_cells: int
    num_classes: int
    auxiliary: bool

    @classmethod
    def of(cls, state: _State) -> "Architecture":
        """Deduces the architecture.

        Raises:
            ValueError: the state is not one of the official networks.
        """
        stem = Stem.IMAGENET if "stem0.0.weight" in state else Stem.CIFAR
        first = "stem0.0.weight" if stem is Stem.IMAGENET else "stem.0.weight"
        return cls(
            supernet=any("._ops." in n.partition("._ops.")[2] for n in state),
            stem=stem,
            image_channels=_shape(state, first, 4)[1],
            init_channels=_init_channels(state, stem),
            num_cells=len({n.split(".")[1] for n in state if n.startswith("cells.")}),
            num_classes=_shape(state, "classifier.weight", 2)[0],
            auxiliary=any(n.startswith("auxiliary_head.") for n in state),
        )

    def __str__(self) -> str:
        if self.supernet:
            parts = ["search supernet"]
        else:
            parts = [f"evaluation network with the {self.stem.value} stem"]
        parts += [f"{self.init_channels} channels", f"{self.num_cells} cells"]
        parts += ["auxiliary head"] if self.auxiliary else []
        return ", ".join([*parts, f"{self.num_classes} classes"])


def _shape(state: _State, name: str, rank: int) -> tuple[int, ...]:
    if name not in state:
        raise ValueError(f"entry '{name}' is missing; every official network has it")
    shape = np.shape(state[name])
    if len(shape) != rank:
        raise ValueError(f"entry '{name}' has shape {shape}, not {rank} dimensions")
    return shape


def _init_channels(state: _State, stem: Stem) -> int:
    if stem is Stem.IMAGENET:
        return _shape(state, "stem1.1.weight", 4)[0]
    width = _shape(state, "stem.0.weight", 4)[0]
    if width % STEM_MULTIPLIER:
        raise ValueError(
            f"entry 'stem.0.weight' has {width} filters, which is not "
            f"{STEM_MULTIPLIER} times the first cell's channels"
        )
    return width // STEM_MULTIPLIER


def convert(
    checkpoint: str | Path,
    output: str | Path,
    genotype: str | None = None,
    image_size: int | None = None,
    normalise: Normalise = Normalise.OFFICIAL,
    log: Callable[[str], None] = print,
) -> keras.Model:
    """Writes the network of an official checkpoint as a `.keras` file.

    Args:
        checkpoint: what the official code saved, of its search or of its training. It
            is read as data, see `read_checkpoint`.
        output: the file to write, replaced if it is there; its folder exists.
        genotype: name or file of an evaluation network's genotype; None for a supernet.
        image_size: height and width of the images; by default 32, or 224 with the
            ImageNet stem.
        normalise: how the images, in [0, 1], are normalised inside the model.
        log: prints a line of the report.

    Returns:
        The model that was written: a `CellNetwork` or an `AdvRushSearchModel`.

    Raises:
        UserError: the input is at fault; one clear line. Nothing is written then.
    """
    output = _checked_output(Path(output))
    try:
        state = read_checkpoint(checkpoint)
        architecture = Architecture.of(state)
    except OSError as error:
        raise UserError(f"--checkpoint={checkpoint}: {error.strerror}.") from None
    except ValueError as error:
        raise UserError(f"--checkpoint={checkpoint}: {error}.") from None
    cells = _checked_genotype(genotype, architecture)
    normalise = _resolve(normalise, architecture)
    model = _make(architecture, cells, image_size, normalise)
    _assign(model, state, f"--checkpoint={checkpoint} ({architecture})", genotype)
    _save(model, output)
    log(f"Read {checkpoint}: {architecture}.")
    for line in _report(model, output, normalise):
        log(line)
    return model


def _checked_output(output: Path) -> Path:
    if output.suffix != ".keras":
        raise UserError(f"--output={output}: its name must end in .keras.")
    if not output.parent.is_dir() or output.is_dir():
        what = f"{output.parent} is not a folder"
        if output.is_dir():
            what = "it is a folder"
        raise UserError(f"--output={output}: {what}.")
    return output


def _checked_genotype(
    genotype: str | None, architecture: Architecture
) -> Genotype | None:
    if architecture.supernet:
        if genotype is not None:
            raise UserError(
                f"--genotype={genotype}: the checkpoint is of a search supernet, which "
                "has no genotype yet; leave --genotype out."
            )
        return None
    if genotype is None:
        raise UserError(
            f"--genotype is missing: the checkpoint is of an {architecture}; give the "
            "name or the genotype.json of its cells."
        )
    try:
        return get_genotype(genotype)
    except ValueError as error:
        raise UserError(f"--genotype={genotype}: {error}") from None


def _resolve(normalise: Normalise, architecture: Architecture) -> Normalise:
    if normalise is not Normalise.OFFICIAL:
        return normalise
    if architecture.stem is Stem.IMAGENET:
        return Normalise.IMAGENET
    return Normalise.CIFAR10 if architecture.supernet else Normalise.NONE


def _make(
    architecture: Architecture,
    genotype: Genotype | None,
    image_size: int | None,
    normalise: Normalise,
) -> keras.Model:
    mean, std = _MOMENTS[normalise]
    size = _IMAGE_SIZES[architecture.stem] if image_size is None else image_size
    common: dict[str, Any] = {
        "num_classes": architecture.num_classes,
        "image_shape": (size, size, architecture.image_channels),
        "init_channels": architecture.init_channels,
        "num_cells": architecture.num_cells,
        "mean": mean,
        "std": std,
    }
    try:
        if genotype is None:
            return AdvRushSearchModel(**common)
        return CellNetwork(
            genotype, stem=architecture.stem, auxiliary=architecture.auxiliary, **common
        )
    except ValueError as error:
        raise UserError(f"The network cannot be built: {error}.") from None


def _assign(
    model: keras.Model, state: _State, source: str, genotype: str | None
) -> None:
    try:
        if isinstance(model, CellNetwork):
            assign_network(model, state)
        else:
            _check_alphas(state)
            assign_supernet(model, state)
    except ValueError as error:
        cells = f" is not a network of --genotype={genotype}" if genotype else ""
        raise UserError(f"{source}{cells}: {error}.") from None


def _check_alphas(state: _State) -> None:
    for name in ("alphas_normal", "alphas_reduce"):
        if name not in state:
            raise ValueError(
                f"entry '{name}' is missing; the official search's weights.pt has no "
                "alphas, give its checkpoint-epoch file"
            )


def _save(model: keras.Model, output: Path) -> None:
    try:
        save_model(model, output)
    except OSError as error:
        raise UserError(f"--output={output}: {error.strerror or error}.") from None


def _report(model: keras.Model, output: Path, normalise: Normalise) -> Iterable[str]:
    parameters = sum(math.prod(v.shape) for v in model.trainable_variables)
    shape = "x".join(map(str, model.image_shape))
    how = f"which it normalises as for {normalise.value}"
    if normalise is Normalise.NONE:
        how = "which it does not normalise"
    yield f"Its {parameters:,} trainable parameters are in {output}."
    yield f"The model takes {shape} images in [0, 1], {how} (--normalise)."
    yield "Next, in Python:"
    yield "    import advrush_tf, keras"
    yield f"    model = keras.models.load_model({str(output)!r})"
    if isinstance(model, AdvRushSearchModel):
        yield "    print(model.genotype())"
