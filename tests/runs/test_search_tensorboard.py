import collections
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from matplotlib import colormaps
from tensorboard.backend.event_processing.plugin_event_accumulator import (
    EventAccumulator,
)
from tensorboard.plugins.hparams import metadata

from advrush_tf import AdvRushSearchModel, bilevel_pairs
from advrush_tf.figures.genotype import genotype_image
from advrush_tf.runs.search_tensorboard import SearchTensorBoard, alphas_image
from advrush_tf.training.optimizers import EpochCosine

STEPS = 3
EVERY = 2
HYPERPARAMETERS = {
    "gamma": np.float64(0.01),
    "squared": False,
    "seed": 7,
    "dataset": "digits",
    "shape": (8, 8, 1),
    "nothing": None,
}
STEP_TAGS = [
    "loss",
    "accuracy",
    "alpha_loss",
    "alpha_accuracy",
    "penalty",
    "penalty_share",
    "entropy",
    "learning_rate",
    "alpha_learning_rate",
]


class Spy(keras.callbacks.Callback):
    """Notes what the files have to hold; reads them while the search still runs."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder
        self.steps = {}
        self.drawings = []
        self.on_disk = []

    def on_train_batch_end(self, batch, logs=None):
        step = int(self.model.optimizer.iterations)
        self.steps[step] = {k: float(v) for k, v in self.model.last_step.items()}

    def on_epoch_end(self, epoch, logs=None):
        self.drawings.append(genotype_image(self.model.genotype()))
        self.on_disk.append(scalars(self.folder)["epoch/loss"][-1][0])


def scalars(folder):
    """Every scalar in all files of the folder: tag -> [(step, value), ...]."""
    found = collections.defaultdict(list)
    for path in sorted(folder.iterdir()):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "scalars":
                    number = float(tf.make_ndarray(value.tensor))
                    found[value.tag].append((event.step, number))
    return found


def images(folder):
    """The pictures that TensorBoard finds: tag -> [(step, array), ...]."""
    reader = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    reader.Reload()
    found = {}
    for tag in reader.summary_metadata:
        plugin = reader.SummaryMetadata(tag).plugin_data.plugin_name
        if plugin == "images":
            found[tag] = [
                (
                    event.step,
                    tf.image.decode_png(tf.make_ndarray(event.tensor_proto)[2]),
                )
                for event in reader.Tensors(tag)
            ]
    return found


def search(folder, model, data, initial_epoch, epochs, every=EVERY):
    pairs, validation = data
    spy = Spy(folder)
    history = model.fit(
        pairs,
        steps_per_epoch=STEPS,
        initial_epoch=initial_epoch,
        epochs=epochs,
        validation_data=validation,
        callbacks=[SearchTensorBoard(folder, HYPERPARAMETERS, every), spy],
        verbose=0,
    )
    return history.history, spy


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A search of two epochs, resumed for a third one by a new callback."""
    keras.utils.set_random_seed(0)
    folder = tmp_path_factory.mktemp("run") / "new" / "logs"
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (24, 8, 8, 1), np.uint8)
    y = rng.integers(0, 3, 24)
    pairs, steps = bilevel_pairs(x, y, batch_size=4)
    assert steps == STEPS
    validation = tf.data.Dataset.from_tensors((x[:4] / np.float32(255), y[:4]))
    model = AdvRushSearchModel(
        3, (8, 8, 1), 2, 1, 2, primitives=("none", "skip_connect", "sep_conv_3x3")
    )
    model.compile(gamma=0)
    model.optimizer.learning_rate = EpochCosine(0.1, 0.01, 3, STEPS)
    first, first_spy = search(folder, model, (pairs, validation), 0, 2)
    second, second_spy = search(folder, model, (pairs, validation), 2, 3)
    history = {name: first[name] + second[name] for name in first}
    return folder, history, [first_spy, second_spy]


def test_epoch_scalars_are_the_history(run):
    folder, history, _ = run
    found = scalars(folder)
    assert {"val_loss", "val_accuracy", "entropy", "penalty_share"} <= set(history)
    for name, values in history.items():
        steps, written = zip(*found[f"epoch/{name}"], strict=True)
        assert steps == (1, 2, 3)
        np.testing.assert_allclose(written, values, rtol=1e-6)


def test_step_scalars_are_the_steps_and_go_on_after_a_resume(run):
    folder, _, spies = run
    found = scalars(folder)
    assert {t for t in found if t.startswith("step/")} == {
        f"step/{name}" for name in STEP_TAGS
    }
    expected = spies[0].steps | spies[1].steps
    assert list(expected) == list(range(1, 10))
    for name in expected[1]:
        steps, written = zip(*found[f"step/{name}"], strict=True)
        assert steps == (2, 4, 6, 8)
        values = [expected[step][name] for step in steps]
        np.testing.assert_allclose(written, values, rtol=1e-6)


def test_learning_rates_are_those_that_were_used(run):
    found = scalars(run[0])
    rates = 0.01 + 0.09 * (1 + np.cos(np.pi * np.arange(3) / 3)) / 2
    _, epochs = zip(*found["epoch/learning_rate"], strict=True)
    _, steps = zip(*found["step/learning_rate"], strict=True)
    np.testing.assert_allclose(epochs, rates, rtol=1e-6)
    np.testing.assert_allclose(steps, rates[[0, 1, 1, 2]], rtol=1e-6)
    for group in ("epoch", "step"):
        _, alpha_rates = zip(*found[f"{group}/alpha_learning_rate"], strict=True)
        np.testing.assert_allclose(alpha_rates, 3e-4, rtol=1e-6)


def test_pictures_show_the_alphas_and_the_genotype(run):
    folder, _, spies = run
    found = images(folder)
    assert set(found) == {"alphas/normal", "alphas/reduce", "genotype/cells"}
    for tag, pictures in found.items():
        assert [step for step, _ in pictures] == [1, 2, 3], tag
    drawings = spies[0].drawings + spies[1].drawings
    for (_, picture), drawing in zip(found["genotype/cells"], drawings, strict=True):
        np.testing.assert_array_equal(picture, drawing)
    # Nearly equal weights: the middle of the colour scale, wherever there is no text.
    for kind in ("normal", "reduce"):
        _, picture = found[f"alphas/{kind}"][0]
        middle = np.array(colormaps["viridis"](0.5))[:3] * 255
        near = np.abs(picture.numpy() - middle).max(-1) < 25
        assert near.mean() > 0.2


def test_each_epoch_is_on_disk_when_it_ends(run):
    assert [spy.on_disk for spy in run[2]] == [[1, 2], [3]]


def test_settings_are_hyperparameters_of_one_trial(run):
    starts, experiments = [], []
    for path in sorted(run[0].iterdir()):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                content = value.metadata.plugin_data.content
                if value.tag == metadata.SESSION_START_INFO_TAG:
                    starts.append(
                        metadata.parse_session_start_info_plugin_data(content)
                    )
                if value.tag == metadata.EXPERIMENT_TAG:
                    experiments.append(metadata.parse_experiment_plugin_data(content))
    assert len(starts) == len(experiments) == 2
    for start in starts:
        values = {
            name: getattr(value, value.WhichOneof("kind"))
            for name, value in start.hparams.items()
        }
        assert values == {
            "gamma": 0.01,
            "squared": False,
            "seed": 7,
            "dataset": "digits",
            "shape": "8, 8, 1",
            "nothing": "None",
        }
    assert starts[0].group_name == starts[1].group_name
    metrics = [info.name.tag for info in experiments[0].metric_infos]
    assert metrics == ["epoch/val_accuracy", "epoch/loss", "epoch/penalty"]
    assert set(metrics) <= set(scalars(run[0]))


class FixedModel:
    """What the callback asks of a model before the first step."""

    def __init__(self, iterations):
        counted = tf.Variable(iterations)
        self.optimizer = collections.namedtuple("O", "iterations")(counted)


def wait_for_the_next_second():
    """TensorBoard reads event files by name, which tells their order by the second."""
    time.sleep(1 - time.time() % 1)


def test_a_resume_takes_back_what_was_written_beyond_it(tmp_path):
    for done, values in ((0, [1.0, 2.0, 3.0]), (1, [20.0, 30.0])):
        wait_for_the_next_second()
        callback = SearchTensorBoard(tmp_path, {})
        callback.set_model(FixedModel(done))
        callback.on_train_begin()
        for step, value in enumerate(values, done + 1):
            callback._write_scalars("step", {"loss": value}, step)
        callback.on_train_end()
    reader = EventAccumulator(str(tmp_path))
    reader.Reload()
    events = reader.Tensors("step/loss")
    found = [
        (event.step, float(tf.make_ndarray(event.tensor_proto))) for event in events
    ]
    assert found == [(1, 1.0), (2, 20.0), (3, 30.0)]


def test_heat_map_colours_the_weights_and_frames_the_kept():
    weights = np.array([[0.1, 0.9], [0.9, 0.1]])
    kept = [("a", 0), ("b", 1)]
    plain = alphas_image(weights, ("a", "b"), "cell", [])
    framed = alphas_image(weights, ("a", "b"), "cell", kept)
    assert plain.dtype == np.uint8 and plain.shape == framed.shape
    assert plain.ndim == 3 and plain.shape[-1] == 3

    def places(picture, colour):
        """(y, x) of each pixel of about this colour."""
        near = np.abs(picture.astype(int) - colour).max(-1) < 12
        return np.argwhere(near)

    low, high = (np.array(colormaps["viridis"](v))[:3] * 255 for v in (0.0, 1.0))
    # The diagonal is dark and the rest bright, so each colour spans rows and columns.
    dark, bright = places(plain, low), places(plain, high)
    top, bottom = np.array_split(dark[dark[:, 0].argsort()], 2)
    assert top[:, 1].mean() < bottom[:, 1].mean() - 30
    top, bottom = np.array_split(bright[bright[:, 0].argsort()], 2)
    assert top[:, 1].mean() > bottom[:, 1].mean() + 30
    changed = np.argwhere((plain != framed).any(-1))
    assert len(changed) > 100
    middle = np.median(changed[:, 0])
    upper = changed[changed[:, 0] < middle]
    lower = changed[changed[:, 0] > middle]
    assert upper[:, 1].max() < lower[:, 1].min()


def test_equal_weights_can_be_drawn():
    weights = np.full((14, 8), 0.125)
    picture = alphas_image(weights, [f"operation {i}" for i in range(8)], "cell", [])
    assert np.isfinite(picture).all() and len(np.unique(picture)) > 10


def test_rejects_a_distance_of_no_steps(tmp_path):
    with pytest.raises(ValueError, match="every_steps must be 1 or more, not 0"):
        SearchTensorBoard(tmp_path, {}, every_steps=0)
