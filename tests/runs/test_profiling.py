import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.fit.model import AdvRushFitModel
from advrush_tf.fit.objectives import PGD
from advrush_tf.nn.cell import Operation
from advrush_tf.nn.cell_network import CellNetwork
from advrush_tf.nn.resnet import ResNet18
from advrush_tf.runs import profiling
from advrush_tf.search.model import AdvRushSearchModel
from support import golden
from support.small_networks import tiny_network

ROWS = {row["arch"]: row for row in golden.load("paramcounts")["meta"]["table"]}


def test_counts_of_the_official_supernet():
    model = AdvRushSearchModel(10, (32, 32, 3))
    assert profiling.count_parameters(model.network_weights) == 1_930_618
    assert profiling.multiply_adds(model) == 300_255_744


# Two of the seven rows, which have all operations between them but dil_conv_5x5.
@pytest.mark.parametrize("arch", ["ADVRUSH", "AmoebaNet"])
def test_counts_of_official_networks(arch):
    net, row = CellNetwork(arch, 10, (32, 32, 3), auxiliary=True), ROWS[arch]
    count = profiling.count_parameters(net.trainable_variables)
    head = profiling.count_parameters(net.auxiliary_head.trainable_variables)
    assert (count, count - head) == (row["params_with_aux"], row["params_no_aux"])
    assert profiling.multiply_adds(net) == row["macs_32"]


def test_counts_of_the_official_network_on_imagenet():
    net = CellNetwork(
        "ADVRUSH", 1000, (224, 224, 3), 48, 14, stem="imagenet", auxiliary=True
    )
    assert profiling.count_parameters(net.trainable_variables) == 7_033_704
    assert profiling.multiply_adds(net) == 640_653_120


def test_count_of_resnet_by_hand():
    # Every stage has as many in its 3x3 convolutions but for the first of each later
    # stage, which reads half the channels; its shortcut has a ninth of that.
    convolution, pixels = 64 * 64 * 9 * 1024, 1024
    stem, classifier = 3 * 64 * 9 * pixels, 512 * 10
    later = convolution // 2 + 3 * convolution + convolution // 2 // 9
    expected = stem + 4 * convolution + 3 * later + classifier
    assert expected == 555_422_720
    assert profiling.multiply_adds(ResNet18(10, (32, 32, 3))) == expected


class OneOperation(keras.Model):
    """A single operation of 3 channels, to be counted."""

    def __init__(self, name, stride, image_shape):
        super().__init__()
        self.image_shape = image_shape
        self.operation = Operation(name, 3, stride)
        self.operation.build((None, None, None, 3))

    def call(self, x, training=False):
        return self.operation(x, tf.nn.relu(x), training=training)


@pytest.mark.parametrize(
    ("name", "per_pixel"),
    [
        ("dil_conv_3x3", 9 * 3 + 3 * 3),
        ("dil_conv_5x5", 25 * 3 + 3 * 3),
        ("sep_conv_3x3", 2 * (9 * 3 + 3 * 3)),
        ("max_pool_3x3", 0),
    ],
)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("sides", [(8, 8), (7, 5), (9, 2)])
def test_odd_images_by_hand(name, per_pixel, stride, sides):
    # The first convolution of a separable one has the stride, the second reads less.
    pixels = np.prod([-(-side // stride) for side in sides])
    model = OneOperation(name, stride, (*sides, 3))
    assert profiling.multiply_adds(model) == pixels * per_pixel


def test_rectangular_kernels_by_hand():
    model = AdvRushSearchModel(
        2, (8, 8, 1), 2, 1, num_nodes=1, primitives=("conv_7x1_1x7",)
    )
    # One reduction cell of 4 channels behind a stem of 6; two edges of stride 2.
    stem, preprocess, classifier = 64 * 9 * 6, 64 * 2 * 6 * 4, 4 * 2
    edge = 8 * 4 * 7 * 16 + 4 * 4 * 7 * 16
    expected = stem + preprocess + 2 * edge + classifier
    assert profiling.multiply_adds(model) == expected


@pytest.mark.parametrize("kind", profiling.STEPS)
def test_a_step_is_measured(kind):
    model = AdvRushSearchModel(2, (8, 8, 1), 2, 1, num_nodes=1)
    model.compile()
    cost = profiling.measure_search_step(model, kind, 4, repeats=1)
    assert 0 < cost.seconds < cost.first_seconds
    assert cost.trace_seconds > 0
    specs = tf.TensorSpec((4, 8, 8, 1)), tf.TensorSpec((4,), tf.int32)
    graphs = [
        model.steps[name].get_concrete_function(*specs).graph
        for name in profiling.STEPS[kind]
    ]
    nodes = sum(len(graph.as_graph_def().node) for graph in graphs)
    # The network lies in a function that the steps share.
    assert cost.graph_nodes > nodes + 1000 and nodes > 100
    assert cost.peak_bytes > 1e8


def test_a_step_of_a_fit_is_measured():
    model = AdvRushFitModel(tiny_network(), PGD(steps=2), ema_decay=0.9)
    model.compile()
    before = int(model.optimizer.iterations)
    cost = profiling.measure_fit_step(model, 4, repeats=2)
    assert int(model.optimizer.iterations) == before + 3
    assert cost.trace_seconds > 0 and cost.first_seconds > 0 and cost.seconds > 0
    assert cost.graph_nodes > 1000
    assert cost.peak_bytes > 1e8


def test_the_memory_of_a_step_has_no_part_in_it_of_the_counting(monkeypatch):
    peak = [5]
    monkeypatch.setattr(profiling, "_count_nodes", lambda graph: peak.append(9) or 1)
    monkeypatch.setattr(profiling, "peak_memory", lambda: max(peak))
    step = tf.function(lambda x, y: x)
    assert profiling.measure([step], (8, 8, 1), 2, 4).peak_bytes == 5


def test_steps_of_an_attack_in_a_loop_are_counted_once():
    nodes = []
    for steps in (2, 7):
        model = AdvRushFitModel(ResNet18(3, (8, 8, 1), 2), PGD(steps=steps))
        model.compile()
        nodes.append(profiling.measure_fit_step(model, 2, repeats=1).graph_nodes)
    assert nodes[0] == nodes[1]


def test_an_evaluation_is_measured():
    model = AdvRushFitModel(tiny_network(), PGD())
    model.compile()
    assert profiling.measure_evaluation(model, 2) > 0


def test_input_is_measured_after_as_many_batches_that_are_not():
    batches = itertools.count()
    assert profiling.measure_input(batches, count=7) > 0
    assert next(batches) == 14
