import numpy as np
import tensorflow as tf

from advrush_tf.nn.constants import block_identity, constant


def test_values_and_types():
    np.testing.assert_array_equal(constant(((1, 2), (3, 4))), [[1, 2], [3, 4]])
    assert constant(3).dtype == tf.int32
    ones = constant(1.0, "float64", (3,))
    assert ones.dtype == tf.float64
    np.testing.assert_array_equal(ones, np.ones(3))


def test_the_rows_of_a_block_identity_mark_their_block():
    expected = [[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]
    np.testing.assert_array_equal(block_identity(2, 3, "float32"), expected)
    np.testing.assert_array_equal(block_identity(4, 1, "float64"), np.eye(4))


def test_a_graph_holds_an_equal_constant_once():
    @tf.function
    def traced(x):
        for _ in range(5):
            x = tf.reduce_sum(x, constant(1), keepdims=True) * constant(2.0, x.dtype)
        return x

    x = tf.ones((2, 3))
    graph = traced.get_concrete_function(x).graph
    constants = [op for op in graph.get_operations() if op.type == "Const"]
    assert len(constants) == 2
    np.testing.assert_array_equal(traced(x), np.full((2, 1), 3 * 2.0**5))
