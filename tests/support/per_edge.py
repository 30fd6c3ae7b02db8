"""The search cell written edge by edge, to compare the batched one with.

Loops over edges and operations with plain TensorFlow, straight from the definition:
symmetric padding by hand, `VALID` kernels, batch normalisation from moments. The
numbers are read from the batched layers, one channel group an edge, so gradients
arrive in the same variables.
"""

import tensorflow as tf

from advrush_tf.runs import profiling
from advrush_tf.search.model import AdvRushSearchModel

EPSILON = 1e-5
KEPT = 0.9


class Statistics:
    """Batch normalisation without affine part, and what it should have recorded.

    Attributes:
        training: whether to normalise by the batch's own statistics.
        expected: (variable, slice, value) of each running statistic afterwards.
    """

    def __init__(self, training):
        self.training = training
        self.expected = []
        self._pieces = {}

    def of_edge(self, variable, part):
        """The channels `part` of a variable, which is cut only once."""
        if part == slice(None):
            return variable.value
        width = part.stop - part.start
        if id(variable) not in self._pieces:
            # A depthwise kernel's channels are its last axis but one.
            axis = -2 if variable.shape[-1] == 1 else -1
            count = variable.shape[axis] // width
            self._pieces[id(variable)] = tf.split(variable.value, count, axis)
        return self._pieces[id(variable)][part.start // width]

    def normalize(self, x, mean, variance, part=slice(None)):
        if not self.training:
            spread = tf.sqrt(self.of_edge(variance, part) + EPSILON)
            return (x - self.of_edge(mean, part)) / spread
        batch_mean = tf.reduce_mean(x, [0, 1, 2])
        biased = tf.reduce_mean((x - batch_mean) ** 2, [0, 1, 2])
        count = x.shape[0] * x.shape[1] * x.shape[2]
        pairs = (mean, batch_mean), (variance, biased * count / (count - 1))
        for variable, batch in pairs:
            value = KEPT * self.of_edge(variable, part) + (1 - KEPT) * batch
            self.expected.append((variable, part, value))
        return (x - batch_mean) / tf.sqrt(biased + EPSILON)


def pad(x, vertical, horizontal, value=0.0):
    paddings = [[0, 0], [vertical] * 2, [horizontal] * 2, [0, 0]]
    return tf.pad(x, paddings, constant_values=value)


def convolve(x, kernel, strides=(1, 1)):
    x = pad(x, kernel.shape[0] // 2, kernel.shape[1] // 2)
    return tf.nn.conv2d(x, kernel, strides, "VALID")


def depthwise(x, kernel, stride=1, dilation=1):
    reach = (kernel.shape[0] - 1) // 2 * dilation
    x = pad(x, reach, reach)
    y = tf.nn.depthwise_conv2d(x, kernel, [1] * 4, "VALID", dilations=[dilation] * 2)
    return y[:, ::stride, ::stride]


def max_pool(x, stride):
    return tf.nn.max_pool2d(pad(x, 1, 1, x.dtype.min), 3, stride, "VALID")


def avg_pool(x, stride):
    total = tf.nn.avg_pool2d(pad(x, 1, 1), 3, stride, "VALID")
    real = tf.nn.avg_pool2d(pad(tf.ones_like(x), 1, 1), 3, stride, "VALID")
    return total / real


def factorized_reduce(x, block, part, statistics):
    """ReLU, two 1x1 convolutions of stride 2, the second one pixel further on."""
    x = tf.nn.relu(x)
    shifted = tf.pad(x, [[0, 0], [0, 1], [0, 1], [0, 0]])[:, 1:, 1:]
    kernel = statistics.of_edge(block.kernel, part)
    half = kernel.shape[-1] // 2
    y = tf.concat(
        [
            # Not a stride of 2: oneDNN's kernel gradient is wrong there.
            tf.nn.conv2d(x[:, ::2, ::2], kernel[..., :half], 1, "VALID"),
            tf.nn.conv2d(shifted[:, ::2, ::2], kernel[..., half:], 1, "VALID"),
        ],
        -1,
    )[:, : (x.shape[1] + 1) // 2, : (x.shape[2] + 1) // 2]
    return statistics.normalize(y, block.moving_mean, block.moving_variance, part)


def conv_norm(x, block, part, statistics, strides=(1, 1)):
    y = convolve(x, statistics.of_edge(block.kernel, part), strides)
    return statistics.normalize(y, block.moving_mean, block.moving_variance, part)


def separable(x, block, part, statistics, stride=1, dilation=1):
    """ReLU, depthwise convolution, 1x1 convolution, batch normalisation."""
    kernel = statistics.of_edge(block.depthwise, part)
    x = depthwise(tf.nn.relu(x), kernel, stride, dilation)
    return conv_norm(x, block.pointwise, part, statistics)


def rectangular(x, block, part, statistics, stride):
    kernel = statistics.of_edge(block.horizontal, part)
    x = convolve(tf.nn.relu(x), kernel, (1, stride))
    return conv_norm(x, block.vertical, part, statistics, (stride, 1))


def operation(name, x, mixed, part, statistics):
    """One candidate operation on one edge."""
    stride = mixed.stride
    if name == "none":
        return tf.zeros_like(x)[:, ::stride, ::stride]
    if name in ("max_pool_3x3", "avg_pool_3x3"):
        pool = max_pool if name == "max_pool_3x3" else avg_pool
        return statistics.normalize(pool(x, stride), *mixed.pools[name], part)
    if name == "skip_connect":
        if stride == 1:
            return x
        return factorized_reduce(x, mixed.reduction, part, statistics)
    if name.startswith("dil_conv"):
        return separable(x, mixed.dilated[name], part, statistics, stride, dilation=2)
    block = mixed.convolutions[name]
    if name == "conv_7x1_1x7":
        return rectangular(x, block, part, statistics, stride)
    x = separable(x, block.first, part, statistics, stride)
    return separable(x, block.second, part, statistics)


def mixed_edge(x, mixed, position, weights, statistics):
    """The weighted sum of all operations on edge `position` of those leaving x."""
    part = slice(position * mixed.channels, (position + 1) * mixed.channels)
    outputs = [
        weight * operation(name, x, mixed, part, statistics)
        for name, weight in zip(mixed.primitives, tf.unstack(weights), strict=True)
    ]
    return tf.add_n(outputs)


def mixed_edges(x, mixed, weights, statistics):
    """All edges that leave x, one after the other in the channels."""
    edges = [
        mixed_edge(x, mixed, position, weights[position], statistics)
        for position in range(mixed.num_edges)
    ]
    return tf.concat(edges, -1)


def preprocess(x, layer, statistics):
    block = layer.convolution
    if layer.halve:
        return factorized_reduce(x, block, slice(None), statistics)
    return conv_norm(tf.nn.relu(x), block, slice(None), statistics)


def cell(layer, first, second, weights, statistics):
    """A search cell: node i adds one mixed edge from each of its i + 2 predecessors.

    Rows of `weights` are the edges, node after node and state after state.
    """
    states = [
        preprocess(x, part, statistics)
        for x, part in zip((first, second), layer.preprocess, strict=True)
    ]
    row = 0
    for node in range(layer.num_nodes):
        arriving = []
        for state in range(node + 2):
            # The first edge that leaves an intermediate state goes to the next node.
            position = node - max(0, state - 1)
            mixed = layer.edges[state]
            x = states[state]
            arriving.append(mixed_edge(x, mixed, position, weights[row], statistics))
            row += 1
        states.append(tf.add_n(arriving))
    return tf.concat(states[2:], -1)


def supernet(net, x, statistics):
    """Logits of a whole supernet."""
    x = convolve(x, net.stem.kernel.value)
    x = statistics.normalize(x, net.stem.moving_mean, net.stem.moving_variance)
    x = x * net.stem.gamma.value + net.stem.beta.value
    first = second = x
    for layer in net.cells:
        alphas = net.alphas_reduce if layer.reduction else net.alphas_normal
        weights = tf.nn.softmax(alphas.value)
        first, second = second, cell(layer, first, second, weights, statistics)
    features = tf.reduce_mean(second, [1, 2])
    kernel, bias = net.classifier.kernel.value, net.classifier.bias.value
    return tf.matmul(features, kernel) + bias


class PerEdgeSearchModel(AdvRushSearchModel):
    """A search model whose supernet is computed edge by edge, to be timed."""

    def logits_of(self, normalised, training):
        statistics = Statistics(training)
        logits = supernet(self.supernet, normalised, statistics)
        for variable, part, value in statistics.expected:
            variable.value[part].assign(value)
        return logits


def main():
    """Prints what the steps of the official search cost, written edge by edge."""
    for kind in profiling.STEPS:
        model = PerEdgeSearchModel(10, (32, 32, 3))
        model.compile(penalty_batch=32)
        print(kind, profiling.measure_search_step(model, kind, 32, repeats=3))


if __name__ == "__main__":
    main()
