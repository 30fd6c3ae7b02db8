"""What users of Keras write from habit works here, or is refused in one sentence."""

import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from advrush_tf import PGD, AdvRushFitModel
from support.small_networks import tiny_batch, tiny_network
from support.tiny_search import random_pair, tiny_compiled, tiny_model


def _fit_model(**options):
    return AdvRushFitModel(tiny_network(**options), PGD(0.1, 0.05, 1))


MODELS = pytest.mark.parametrize(
    "make", [_fit_model, tiny_model], ids=["fit", "search"]
)


@MODELS
@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("loss", "mse", "has its own losses"),
        ("metrics", ["accuracy"], "always measures losses and accuracies"),
        ("steps_per_execution", 8, "checked before its step"),
        ("learning_rate", 0.1, "has no such argument"),
    ],
)
def test_other_arguments_of_compile_are_refused(make, name, value, reason):
    with pytest.raises(ValueError, match=rf"takes no {name}: .*{reason}"):
        make().compile(**{name: value})


@pytest.mark.parametrize("name", ["class_weight", "sample_weight"])
def test_a_search_takes_no_weights(name):
    with pytest.raises(ValueError, match=f"a search takes no {name}: both halves"):
        tiny_compiled().fit([random_pair(0)], **{name: {0: 1.0}})


class _Measured(keras.callbacks.Callback):
    """Replaces what the epochs measured."""

    def __init__(self, **logs):
        super().__init__()
        self.values = logs

    def on_epoch_end(self, epoch, logs=None):
        logs |= {name: values[epoch] for name, values in self.values.items()}


@pytest.mark.parametrize(
    ("monitor", "best"),
    [
        ("val_accuracy", 1),
        ("robust_accuracy", 1),
        ("val_loss", 2),
    ],
)
def test_callbacks_that_monitor_need_no_mode(tmp_path, monitor, best):
    model, path = _fit_model(), tmp_path / "best.weights.h5"
    model.compile(run_eagerly=True)
    kept = keras.callbacks.ModelCheckpoint(
        path, monitor, save_best_only=True, save_weights_only=True
    )
    stopping = keras.callbacks.EarlyStopping(monitor, patience=9)
    measured = _Measured(**{monitor: (0.5, 0.75, 0.25)})
    x, y = tiny_batch()
    model.fit(x, y, epochs=3, verbose=0, callbacks=[measured, kept, stopping])
    assert stopping.best_epoch == best
    assert kept.best == pytest.approx((0.5, 0.75, 0.25)[best])


def test_a_search_knows_the_direction_of_an_accuracy():
    model = tiny_compiled()
    stopping = keras.callbacks.EarlyStopping("alpha_accuracy", patience=0)
    measured = _Measured(alpha_accuracy=(0.5, 0.75, 0.25))
    pairs = tf.data.Dataset.from_tensors(random_pair())
    model.fit(pairs, epochs=3, verbose=0, callbacks=[measured, stopping])
    assert stopping.best_epoch == 1


def _summary(model):
    lines = []
    model.summary(line_length=90, print_fn=lines.append)
    return "\n".join(lines)


def test_summaries_show_parts_and_shapes():
    model = tiny_model()
    text = _summary(model)
    assert "?" not in text
    for part in ("stem", "cell_0", "classifier"):
        assert part in text
    assert f"Total params: {model.count_params():,} " in text
    cells = [line for line in text.splitlines() if "cell_" in line]
    last = model.supernet.cells[-1]
    width = last.channels * last.num_nodes
    assert f", {width})" in cells[-1]
    assert "(None, 3)" in text


def test_a_fits_summary_shows_the_networks_parts():
    text = _summary(_fit_model())
    assert "?" not in text
    assert "cell_0 (FixedCell)" in text
    assert text.count("(None, 3)") == 2


@pytest.mark.skipif(not shutil.which("dot"), reason="needs Graphviz's program")
@pytest.mark.parametrize("make", [tiny_network, _fit_model, tiny_model])
def test_a_model_is_plotted(tmp_path, make):
    path = tmp_path / "model.png"
    keras.utils.plot_model(make(), str(path), show_shapes=True, expand_nested=True)
    assert path.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float64"])
def test_a_fit_follows_the_policy_of_the_process(policy):
    before = keras.config.dtype_policy(), keras.config.floatx()
    try:
        keras.config.set_floatx("float64" if policy == "float64" else "float32")
        keras.config.set_dtype_policy(policy)
        model = _fit_model()
        model.compile(run_eagerly=True)
        x, y = tiny_batch()
        logs = model.fit(x, y, verbose=0, validation_data=(x, y)).history
    finally:
        keras.config.set_floatx(before[1])
        keras.config.set_dtype_policy(before[0])
    assert model.dtype_policy.name == policy
    assert model.network.weights[0].dtype == model.variable_dtype
    assert np.isfinite([logs["loss"], logs["val_loss"]]).all()
