import pytest
import tensorflow as tf

from advrush_tf import profiling
from advrush_tf.search import AdvRushSearchModel


def test_counts_of_the_official_supernet():
    model = AdvRushSearchModel(10, (32, 32, 3))
    assert profiling.count_parameters(model.network_weights) == 1_930_618
    assert profiling.multiply_adds(model) == 300_255_744


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
    assert cost.graph_nodes == nodes > 100
    assert cost.peak_bytes > 1e8
