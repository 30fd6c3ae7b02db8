"""The checks of a GPU, tried on this machine's processor."""

import numpy as np
import pytest
import tensorflow as tf

from advrush_tf.genotypes.search_space import PRIMITIVES
from support import gpu_check
from support.gpu_kernels import operations_without_gpu_kernel
from support.tiny_search import random_batch, tiny_compiled


@pytest.mark.parametrize("wrap", [lambda call: call, tf.function])
def test_operations_without_a_kernel_are_found(wrap):
    def call(logits):
        tf.nn.relu(logits)
        return tf.raw_ops.SparseSoftmaxCrossEntropyWithLogits(
            features=logits, labels=[0, 1]
        )

    for dtype, expected in (
        (tf.float32, set()),
        (tf.float64, {"SparseSoftmaxCrossEntropyWithLogits float64"}),
    ):
        with operations_without_gpu_kernel() as found:
            wrap(call)(tf.ones((2, 3), dtype))
        assert found == expected


def test_a_penalised_step_needs_no_cpu():
    batch = [tf.constant(values) for values in random_batch(0)]
    settings = {"primitives": PRIMITIVES}
    model = tiny_compiled(run_eagerly=False, model_settings=settings)
    with operations_without_gpu_kernel() as found:
        for name in ("update_weights", "alpha_gradients", "penalty_gradients"):
            model.steps[name].get_concrete_function(*batch)
    assert found == set()


def test_the_table_says_what_does_not_hold(monkeypatch, capsys):
    rows = [gpu_check.Row("one", "1", True), gpu_check.Row("two", "2|3", False)]
    monkeypatch.setitem(gpu_check.CHECKS, "machine", lambda device: rows)
    monkeypatch.setattr("sys.argv", ["gpu_check", "--device=CPU", "machine"])
    with pytest.raises(SystemExit, match="True"):
        gpu_check.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:] == ["| one | 1 | yes |", "| two | 2/3 | NO |"]


def test_penalised_steps_that_differ_do_not_hold(monkeypatch):
    gradient = np.array([1.0, -2.0])
    found = iter([gradient, gradient * 1.01, gradient, gradient * 1.1, gradient])
    monkeypatch.setattr(gpu_check, "_penalised", lambda model: next(found))
    monkeypatch.setattr(gpu_check, "_search", lambda *_, **__: None)
    rows = list(gpu_check.CHECKS["steps"]("CPU"))
    assert [row.held for row in rows] == [True, False]
