import numpy as np

from advrush_tf import profiling
from advrush_tf.search import AdvRushSearchModel


def test_counts_of_the_official_supernet():
    model = AdvRushSearchModel(10, (32, 32, 3))
    assert profiling.count_parameters(model) == 1_930_618
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


def test_steps_are_measured():
    model = AdvRushSearchModel(2, (8, 8, 1), 2, 1, num_nodes=1)
    model.compile(gamma=0.0)
    costs = profiling.measure_steps(model, 4, repeats=1)
    assert [cost.name for cost in costs] == ["weights", "alphas"]
    for cost in costs:
        assert 0 < cost.seconds < cost.first_seconds
        assert cost.graph_nodes > 100
        assert cost.peak_bytes > 1e8
    model.compile()
    assert [c.name for c in profiling.measure_steps(model, 4, 1)][-1] == "penalty"
    assert np.isfinite(model.entropy())
