"""ResNet18: the baseline that no search found, in the CIFAR form."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from advrush_tf.nn.blocks import Block, ConvBatchNorm, build_dense
from advrush_tf.nn.checks import check_image_classifier
from advrush_tf.nn.classifier import ImageClassifier
from advrush_tf.version import PACKAGE

_BLOCKS_PER_STAGE = 2
# The stride of each stage's first block; the width doubles wherever it is 2.
_STRIDES = (1, 2, 2, 2)


class ResidualBlock(Block):
    """Two 3x3 convolutions beside a shortcut, then a ReLU.

    Args:
        channels: output channels.
        stride: 1 or 2, of the first convolution and the shortcut.

    Call arguments:
        x: (batch, height, width, channels in).
        training: batch normalisation mode.

    Source: He et al., arXiv 1512.03385, figure 2.
    """

    def __init__(self, channels: int, stride: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.channels = channels
        self.stride = stride

    def build(self, input_shape):
        strides = (self.stride, self.stride)
        self.first = self._convolution("first", (3, 3), strides, input_shape)
        middle = (*input_shape[:-1], self.channels)
        self.second = self._convolution("second", (3, 3), (1, 1), middle)
        self.shortcut = None
        if self.stride != 1 or input_shape[-1] != self.channels:
            self.shortcut = self._convolution("shortcut", (1, 1), strides, input_shape)
        self.built = True

    def _convolution(self, name, kernel_size, strides, input_shape):
        block = ConvBatchNorm(
            self.channels,
            kernel_size,
            strides,
            affine=True,
            **self.inherited,
            name=name,
        )
        block.build(input_shape)
        return block

    def call(self, x, training=False):
        y = tf.nn.relu(self.first(x, training=training))
        y = self.second(y, training=training)
        if self.shortcut is not None:
            x = self.shortcut(x, training=training)
        return tf.nn.relu(x + y)


@keras.saving.register_keras_serializable(PACKAGE)
class ResNet18(ImageClassifier):
    """ResNet-18 whose stem keeps the images' resolution.

    Args:
        num_classes: number of classes, at least 2.
        image_shape: (height, width, channels).
        init_channels: channels of the first stage.
        mean, std, provenance: see `ImageClassifier`; call arguments and output too.

    Raises:
        ValueError: a number is out of range or the images are too small.

    Source: He et al., arXiv 1512.03385; the CIFAR form has a 3x3 stem and no pooling.
    """

    def __init__(
        self,
        num_classes: int,
        image_shape: Sequence[int],
        init_channels: int = 64,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        provenance: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ):
        check_image_classifier(
            num_classes,
            image_shape,
            2 ** _STRIDES.count(2),
            init_channels=init_channels,
        )
        super().__init__(num_classes, image_shape, mean, std, provenance, **kwargs)
        self._config |= {"init_channels": init_channels}
        self.build((None, *image_shape))

    def build(self, input_shape):
        width, common = self._config["init_channels"], self.inherited
        self.stem = ConvBatchNorm(width, (3, 3), affine=True, name="stem", **common)
        self.stem.build(input_shape)
        channels, self.blocks = width, []
        for stage, stride in enumerate(_STRIDES):
            for index in range(_BLOCKS_PER_STAGE):
                block = ResidualBlock(
                    width * 2 ** _STRIDES[: stage + 1].count(2),
                    stride if index == 0 else 1,
                    name=f"block_{stage}_{index}",
                    **common,
                )
                block.build((None, None, None, channels))
                channels = block.channels
                self.blocks.append(block)
        self.classifier = build_dense(
            self.num_classes, channels, self.dtype_policy, "classifier"
        )
        self.built = True

    def call(self, x, training=False):
        x = tf.nn.relu(self.stem(self.prepare(x), training=training))
        for block in self.blocks:
            x = block(x, training=training)
        logits = self.classifier(tf.reduce_mean(x, [1, 2]))
        return tf.cast(logits, self.variable_dtype)
