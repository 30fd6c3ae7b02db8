import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.plugin_event_accumulator import (
    EventAccumulator,
)
from tensorboard.plugins.hparams import metadata

from advrush_tf.attacks.pgd import SignAscent
from advrush_tf.data.pipeline import training_batches
from advrush_tf.fit.model import AdvRushFitModel
from advrush_tf.fit.objectives import PGD
from advrush_tf.runs.tensorboard import FitTensorBoard, RunTensorBoard
from advrush_tf.training.optimizers import MomentumSGD, OneCycle
from support.small_networks import tiny_network

STEPS, EVERY, EPOCHS = 3, 2, 3
HYPERPARAMETERS = {
    "epsilon": np.float64(0.125),
    "awp": False,
    "seed": 7,
    "objective": "pgd",
    "shape": (8, 8, 1),
    "nothing": None,
}
RATES = np.interp(np.arange(1, 10) / 9, [0, 0.4, 1], [0, 0.2, 0])
ATTACK = SignAscent(0.125, 0.0625, 2)


class Spy(keras.callbacks.Callback):
    """Notes each step's logs, and after each epoch the last one that is on disk."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder
        self.steps = {}
        self.on_disk = []

    def on_train_batch_end(self, batch, logs=None):
        step = int(self.model.optimizer.iterations)
        self.steps[step] = {name: float(value) for name, value in logs.items()}

    def on_epoch_end(self, epoch, logs=None):
        self.on_disk.append(read_scalars(self.folder)["epoch/loss"][-1][0])


def read_scalars(folder):
    """What TensorBoard shows: tag -> [(step, value), ...]."""
    reader = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    reader.Reload()
    return {
        tag: [
            (event.step, float(tf.make_ndarray(event.tensor_proto)))
            for event in reader.Tensors(tag)
        ]
        for tag in reader.summary_metadata
        if reader.SummaryMetadata(tag).plugin_data.plugin_name == "scalars"
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A fit of two epochs, resumed for a third one by a new callback."""
    folder = tmp_path_factory.mktemp("run") / "new" / "logs"
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (12, 8, 8, 1), np.uint8)
    y = rng.integers(0, 3, 12)
    held_out = tf.data.Dataset.from_tensors((x[:4] / np.float32(255), y[:4]))
    model = AdvRushFitModel(
        tiny_network(), PGD(0.125, 0.0625, 2), evaluation_attack=ATTACK
    )
    model.compile(MomentumSGD(OneCycle(0.2, EPOCHS * STEPS)))
    history, spies = {}, []
    for first, last in ((0, 2), (2, EPOCHS)):
        batches, steps = training_batches(x, y, 4, initial_epoch=first)
        assert steps == STEPS
        spies.append(Spy(folder))
        callback = FitTensorBoard(folder, HYPERPARAMETERS, EVERY)
        logs = model.fit(
            batches,
            steps_per_epoch=STEPS,
            initial_epoch=first,
            epochs=last,
            validation_data=held_out,
            callbacks=[callback, spies[-1]],
            verbose=0,
        )
        for name, values in logs.history.items():
            history.setdefault(name, []).extend(values)
    return folder, history, spies


def test_epoch_scalars_are_the_history(run):
    folder, history, _ = run
    found = read_scalars(folder)
    assert set(history) == {
        *("loss", "robust_accuracy"),
        *("val_loss", "val_accuracy", "val_robust_accuracy"),
    }
    for name, values in history.items():
        steps, written = zip(*found[f"epoch/{name}"], strict=True)
        assert steps == (1, 2, 3), name
        np.testing.assert_allclose(written, values, rtol=1e-6)
    assert {tag for tag in found if tag.startswith("epoch/")} == {
        f"epoch/{name}" for name in (*history, "learning_rate")
    }


def test_step_scalars_are_the_steps_and_go_on_after_a_resume(run):
    folder, _, spies = run
    found = read_scalars(folder)
    expected = spies[0].steps | spies[1].steps
    assert list(expected) == list(range(1, 10))
    assert {tag for tag in found if tag.startswith("step/")} == {
        f"step/{name}" for name in (*expected[1], "learning_rate")
    }
    for name in expected[1]:
        steps, written = zip(*found[f"step/{name}"], strict=True)
        assert steps == (2, 4, 6, 8)
        values = [expected[step][name] for step in steps]
        np.testing.assert_allclose(written, values, rtol=1e-6)


def test_learning_rates_are_those_that_the_steps_used(run):
    found = read_scalars(run[0])
    _, epochs = zip(*found["epoch/learning_rate"], strict=True)
    _, steps = zip(*found["step/learning_rate"], strict=True)
    np.testing.assert_allclose(epochs, RATES[[0, 3, 6]], rtol=1e-5)
    np.testing.assert_allclose(steps, RATES[[1, 3, 5, 7]], rtol=1e-5)


def test_each_epoch_is_on_disk_when_it_ends(run):
    assert [spy.on_disk for spy in run[2]] == [[1, 2], [3]]


def _hparams(folder):
    """Starts and experiments of all files of a folder."""
    starts, experiments = [], []
    for path in sorted(folder.iterdir()):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                content = value.metadata.plugin_data.content
                if value.tag == metadata.SESSION_START_INFO_TAG:
                    starts.append(
                        metadata.parse_session_start_info_plugin_data(content)
                    )
                if value.tag == metadata.EXPERIMENT_TAG:
                    experiments.append(metadata.parse_experiment_plugin_data(content))
    return starts, experiments


def test_settings_are_hyperparameters_of_one_trial(run):
    starts, experiments = _hparams(run[0])
    assert len(starts) == len(experiments) == 2
    for start in starts:
        values = {
            name: getattr(value, value.WhichOneof("kind"))
            for name, value in start.hparams.items()
        }
        expected = HYPERPARAMETERS | {"shape": "8, 8, 1", "nothing": "None"}
        assert values == expected
    assert starts[0].group_name == starts[1].group_name
    metrics = [info.name.tag for info in experiments[0].metric_infos]
    assert metrics == ["epoch/val_accuracy", "epoch/loss", "epoch/val_robust_accuracy"]
    assert set(metrics) <= set(read_scalars(run[0]))


class LinearModel(keras.Sequential):
    """The least that Keras fits."""

    def __init__(self, seed):
        keras.utils.set_random_seed(seed)
        super().__init__([keras.Input((2,)), keras.layers.Dense(1)])
        self.compile("sgd", "mse")


def _fit(folder, seed, epochs, done=0, **settings):
    """Fits one step an epoch, after as many as are done; gives its losses."""
    model = LinearModel(seed)
    model.optimizer.iterations.assign(done)
    callback = RunTensorBoard(folder, {}, every_steps=1, **settings)
    history = model.fit(
        np.ones((4, 2)),
        np.ones(4),
        initial_epoch=done,
        epochs=epochs,
        verbose=0,
        callbacks=[callback],
    )
    return history.history["loss"]


def test_any_model_is_shown_and_a_resume_replaces_what_is_beyond_it(tmp_path):
    before = _fit(tmp_path, seed=0, epochs=4)
    after = _fit(tmp_path, seed=1, epochs=5, done=2)
    found = read_scalars(tmp_path)
    for group in ("step", "epoch"):
        steps, values = zip(*found[f"{group}/loss"], strict=True)
        assert steps == (1, 2, 3, 4, 5), group
        np.testing.assert_allclose(values, before[:2] + after, rtol=1e-6)


class Pictured(RunTensorBoard):
    """Shows a picture an epoch, and of a step only twice its loss."""

    def step_values(self, logs):
        return {"double": 2 * logs["loss"]}

    def epoch_pictures(self, epoch):
        return {"square": np.full((4, 4, 3), 10 * epoch, np.uint8)}


def test_subclasses_decide_what_is_shown(tmp_path):
    model = LinearModel(0)
    history = model.fit(
        np.ones((4, 2)),
        np.ones(4),
        epochs=2,
        verbose=0,
        callbacks=[Pictured(tmp_path, {}, every_steps=1)],
    )
    found = read_scalars(tmp_path)
    assert set(found) == {
        *("step/double", "step/learning_rate"),
        *("epoch/loss", "epoch/learning_rate"),
    }
    np.testing.assert_allclose(
        [value for _, value in found["step/double"]],
        2 * np.array(history.history["loss"]),
        rtol=1e-6,
    )
    reader = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0})
    reader.Reload()
    pictures = {
        event.step: tf.image.decode_png(tf.make_ndarray(event.tensor_proto)[2])
        for event in reader.Tensors("square")
    }
    assert sorted(pictures) == [1, 2]
    np.testing.assert_array_equal(pictures[2], np.full((4, 4, 3), 10))


def test_a_folder_that_cannot_be_made_is_an_oserror(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        _fit(tmp_path / "file" / "logs", seed=0, epochs=1)


def test_rejects_a_distance_of_no_steps(tmp_path):
    with pytest.raises(ValueError, match="every_steps must be 1 or more, not 0"):
        FitTensorBoard(tmp_path, {}, every_steps=0)
