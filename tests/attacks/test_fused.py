import dataclasses

import numpy as np
import tensorflow as tf

from advrush_tf.attacks.fused import fused


@dataclasses.dataclass(frozen=True)
class Line:
    slope: float
    traced: list = dataclasses.field(default_factory=list, compare=False)

    def at(self, state, offset):
        self.traced.append(state["x"].shape)
        return {"y": self.slope * state["x"] + offset}


def test_a_method_is_compiled_once_for_each_shape():
    line = Line(3.0)
    for x in ([1.0, 2.0], [4.0, 5.0], [6.0]):
        y = fused(line.at, {"x": tf.constant(x)}, tf.constant(1.0))["y"]
        np.testing.assert_allclose(y, 3 * np.array(x) + 1)
    assert line.traced == [(2,), (1,)]


def test_it_is_a_kernel_of_its_own_in_a_graph():
    graph = tf.function(lambda x: fused(Line(2.0).at, {"x": x}, x)["y"])
    x = tf.constant([1.0, 2.0])
    np.testing.assert_allclose(graph(x), [3, 6])
    calls = [
        node
        for node in graph.get_concrete_function(x).graph.as_graph_def().node
        if node.attr["_XlaMustCompile"].b
    ]
    assert len(calls) == 1
