import keras
import tensorflow as tf

from advrush_tf.variables import of_one_name


def test_tensorflows_names_are_one_and_keras_are_as_ever():
    def made():
        layer = keras.layers.Dense(2, name="dense")
        with tf.name_scope("outer"):
            layer.build((None, 3))
        return layer.kernel, layer.bias

    plain = [(v.name, v.path) for v in made()]
    with of_one_name():
        variables = made()
    assert [(v.name, v.path) for v in variables] == plain
    assert [v.value.name for v in variables] == ["variable:0"] * 2
    assert made()[0].value.name == "outer/dense/kernel:0"
    # They are different variables all the same.
    variables[0].assign(tf.ones((3, 2)))
    assert variables[1].numpy().tolist() == [0, 0]
