"""CellNetwork: the network of a genotype, in the CIFAR and the ImageNet form."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from advrush_tf import replication
from advrush_tf.errors import Choice
from advrush_tf.genotypes.genotype import Genotype, get_genotype
from advrush_tf.genotypes.search_space import reduction_cells
from advrush_tf.nn.blocks import (
    Block,
    ConvBatchNorm,
    build_dense,
    uniform_initializer,
)
from advrush_tf.nn.cell import FixedCell
from advrush_tf.nn.checks import check_architecture
from advrush_tf.nn.classifier import ImageClassifier
from advrush_tf.nn.recompute import recomputed
from advrush_tf.version import PACKAGE

STEM_MULTIPLIER = 3  # Width of the CIFAR stem, in `init_channels`.


class Stem(Choice):
    """The first layers of a network.

    CIFAR keeps the images' resolution, IMAGENET halves it three times.
    """

    CIFAR = "cifar"
    IMAGENET = "imagenet"


_AUXILIARY_POOL = 5
_AUXILIARY_STRIDES = {Stem.CIFAR: 3, Stem.IMAGENET: 2}


def has_room_for_auxiliary(
    image_shape: Sequence[int], num_cells: int, stem: Stem
) -> bool:
    """Returns whether an auxiliary head fits behind the last reduction cell."""
    side = min(image_shape[:2])
    for _ in range(_stem_halvings(stem) + len(reduction_cells(num_cells))):
        side = -(-side // 2)
    return side >= _AUXILIARY_POOL + _AUXILIARY_STRIDES[stem]


def _stem_halvings(stem: Stem) -> int:
    return 3 if stem is Stem.IMAGENET else 0


class AuxiliaryHead(Block):
    """A second classifier, on the output of the last reduction cell.

    Args:
        num_classes: number of classes.
        stem: of the network. The head of the ImageNet form pools with stride 2 instead
            of 3 and has, as in the official code, no second batch normalisation.
    """

    def __init__(self, num_classes: int, stem: Stem | str, **kwargs: Any):
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.stem = Stem(stem)

    def build(self, input_shape):
        imagenet = self.stem is Stem.IMAGENET
        self.stride = _AUXILIARY_STRIDES[self.stem]
        smallest = _AUXILIARY_POOL + self.stride
        if min(input_shape[1:3]) < smallest:
            raise ValueError(
                f"the auxiliary head reads {input_shape[1]}x{input_shape[2]} pixels "
                f"and needs {smallest}x{smallest}: use larger images, or no head with "
                "auxiliary=False (--auxiliary_weight=0)"
            )
        common = self.inherited
        self.first = ConvBatchNorm(128, affine=True, name="first", **common)
        self.first.build(input_shape)
        if imagenet:
            self.second = keras.layers.Conv2D(
                768,
                2,
                use_bias=False,
                kernel_initializer=uniform_initializer(2 * 2 * 128),
                dtype=self.dtype_policy,
            )
        else:
            self.second = ConvBatchNorm(
                768, (2, 2), affine=True, padded=False, name="second", **common
            )
        self.second.build((None, None, None, 128))
        self.classifier = build_dense(self.num_classes, 768, self.dtype_policy)
        self.built = True

    def call(self, x, training=False):
        x = tf.nn.avg_pool2d(tf.nn.relu(x), _AUXILIARY_POOL, self.stride, "VALID")
        x = tf.nn.relu(self.first(x, training=training))
        x = tf.nn.relu(self.second(x, training=training))
        return self.classifier(tf.reduce_mean(x, [1, 2]))


@keras.saving.register_keras_serializable(PACKAGE)
class CellNetwork(ImageClassifier):
    """A classifier built from the cells of a genotype.

    Args:
        genotype: a `Genotype`, a name or path that `get_genotype` takes, or a mapping
            with the fields of a `Genotype`.
        num_classes: number of classes, at least 2.
        image_shape: (height, width, channels).
        init_channels: channels of the first cell; 36 on CIFAR, 48 on ImageNet.
        num_cells: number of cells; 20 on CIFAR, 14 on ImageNet.
        stem: a `Stem` or its name.
        auxiliary: whether there is an auxiliary head, see `with_auxiliary`.
        drop_path: probability that the output of an operation is dropped for an
            example in training; see `schedule_drop_path`.
        mean, std, provenance: see `ImageClassifier`; call arguments and output too.
        seed: of the dropped paths.
        recompute_cells: whether the backward pass computes each cell again instead of
            keeping its activations: less memory, more time.

    Raises:
        ValueError: a number is out of range, or the images are too small.

    Source: Liu et al., DARTS, arXiv 1806.09055, section 3.2 and appendix A.
    """

    def __init__(
        self,
        genotype: Genotype | str | Mapping[str, Any],
        num_classes: int,
        image_shape: Sequence[int],
        init_channels: int = 36,
        num_cells: int = 20,
        stem: Stem | str = Stem.CIFAR,
        auxiliary: bool = False,
        drop_path: float = 0.0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        seed: int | None = None,
        provenance: Mapping[str, Any] | None = None,
        recompute_cells: bool = False,
        **kwargs: Any,
    ):
        stem = Stem(stem)
        check_architecture(
            num_classes,
            image_shape,
            num_cells,
            _stem_halvings(stem),
            init_channels=init_channels,
        )
        if not 0 <= drop_path < 1:
            raise ValueError(f"drop_path must be in [0, 1), not {drop_path}")
        super().__init__(num_classes, image_shape, mean, std, provenance, **kwargs)
        self.genotype = _as_genotype(genotype)
        self._config |= {
            "genotype": self.genotype.to_dict(),
            "init_channels": init_channels,
            "num_cells": num_cells,
            "stem": stem.value,
            "auxiliary": auxiliary,
            "drop_path": drop_path,
            "seed": seed,
            "recompute_cells": recompute_cells,
        }
        if drop_path > 0:
            self._add_drop_path()
        self.build((None, *image_shape))

    def _add_drop_path(self) -> None:
        self.drop_path_rate = self.add_weight(
            name="drop_path_rate",
            shape=(),
            initializer=keras.initializers.Constant(self._config["drop_path"]),
            trainable=False,
            autocast=False,
        )
        self.seed_generator = keras.random.SeedGenerator(self._config["seed"])

    def build(self, input_shape):
        config, common = self._config, self.inherited
        self.stem_blocks = _stem_blocks(config["stem"], config["init_channels"], common)
        shape = tuple(input_shape)
        for block in self.stem_blocks:
            block.build(shape)
            sides = (-(-side // block.strides[0]) for side in shape[1:3])
            shape = (None, *sides, block.filters)
        width, height_and_width = shape[-1], shape[1:3]
        self.cells = self._build_cells(width)
        last = self.cells[-1]
        self.classifier = build_dense(
            config["num_classes"],
            len(last.concat) * last.channels,
            self.dtype_policy,
            "classifier",
        )
        self.auxiliary_head = None
        if config["auxiliary"]:
            self._build_auxiliary(height_and_width, common)
        self.built = True

    def _build_cells(self, stem_width: int) -> list[FixedCell]:
        cells: list[FixedCell] = []
        channels = self._config["init_channels"]
        halve_first = self._config["stem"] == Stem.IMAGENET
        widths = [stem_width, stem_width]
        reductions = reduction_cells(self._config["num_cells"])
        for position in range(self._config["num_cells"]):
            reduction = position in reductions
            channels *= 2 if reduction else 1
            kind = "reduce" if reduction else "normal"
            cell = FixedCell(
                getattr(self.genotype, kind),
                getattr(self.genotype, f"{kind}_concat"),
                channels,
                reduction,
                halve_first,
                **self.inherited,
                name=f"cell_{position}",
            )
            cell.build(*((None, None, None, width) for width in widths[-2:]))
            cells.append(cell)
            widths.append(len(cell.concat) * channels)
            halve_first = reduction
        return cells

    def _build_auxiliary(self, sides: tuple[int, ...], common: dict[str, Any]) -> None:
        for _ in reduction_cells(self._config["num_cells"]):
            sides = tuple(-(-side // 2) for side in sides)
        cell = self.cells[self._auxiliary_cell]
        self.auxiliary_head = AuxiliaryHead(
            self._config["num_classes"], self._config["stem"], **common
        )
        self.auxiliary_head.build((None, *sides, len(cell.concat) * cell.channels))

    @property
    def _auxiliary_cell(self) -> int:
        return 2 * self._config["num_cells"] // 3

    def call(self, x, training=False):
        return self._features(x, training)[0]

    def with_auxiliary(
        self, x: tf.Tensor, training: bool = False
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The logits of the classifier and of the auxiliary head.

        Raises:
            ValueError: there is no auxiliary head.
        """
        if self.auxiliary_head is None:
            raise ValueError("this network was made with auxiliary=False")
        logits, features = self._features(x, training)
        auxiliary = self.auxiliary_head(features, training=training)
        return logits, tf.cast(auxiliary, self.variable_dtype)

    def _features(self, x, training):
        """Logits, and the input of the auxiliary head."""
        first, second = self._stem(self.prepare(x), training)
        drop = self._drop if training and self._config["drop_path"] > 0 else None
        features = second
        for position, cell in enumerate(self.cells):
            if self._config["recompute_cells"]:
                run = self._recomputed(cell)
                output = run((first, second), drop=drop, training=training)
            else:
                output = cell(first, second, drop=drop, training=training)
            first, second = second, output
            if position == self._auxiliary_cell:
                features = output
        logits = self.classifier(tf.reduce_mean(second, [1, 2]))
        return tf.cast(logits, self.variable_dtype), features

    def _recomputed(self, cell):
        if self._config["drop_path"] == 0:
            return recomputed(cell)
        return recomputed(cell, [self.drop_path_rate, self.seed_generator.state])

    def _stem(self, x, training):
        outputs = []
        for index, block in enumerate(self.stem_blocks):
            x = block(tf.nn.relu(x) if index else x, training=training)
            outputs.append(x)
        return (outputs[-2:] * 2)[:2]

    def schedule_drop_path(self, share: float) -> None:
        """Sets the rate at which paths drop to a share, in [0, 1], of `drop_path`."""
        if self._config["drop_path"] > 0:
            self.drop_path_rate.assign(share * self._config["drop_path"])

    def _drop(self, x):
        """Drops an operation's output for some examples, and scales up the others."""
        keep = 1 - self.drop_path_rate.value
        uniform = replication.local_rows(
            lambda rows: keras.random.uniform(
                (rows, 1, 1, 1), dtype=keep.dtype, seed=self.seed_generator
            ),
            tf.shape(x)[0],
        )
        mask = tf.cast(uniform < keep, keep.dtype) / keep
        return x * tf.cast(mask, x.dtype)


def _stem_blocks(stem: str, channels: int, common: dict[str, Any]):
    if stem == Stem.CIFAR:
        width = STEM_MULTIPLIER * channels
        return [ConvBatchNorm(width, (3, 3), affine=True, name="stem", **common)]
    return [
        ConvBatchNorm(
            width, (3, 3), (2, 2), affine=True, name=f"stem_{index}", **common
        )
        for index, width in enumerate((channels // 2, channels, channels))
    ]


def _as_genotype(genotype: Any) -> Genotype:
    if isinstance(genotype, Genotype):
        return genotype
    if isinstance(genotype, Mapping):
        return Genotype(**genotype)
    return get_genotype(genotype)
