import contextlib
import resource
import time
from typing import ClassVar

import keras
import numpy as np
import pytest
import tensorflow as tf
from matplotlib import colormaps
from tensorboard.backend.event_processing.plugin_event_accumulator import (
    EventAccumulator,
)

from advrush_tf.attacks.pgd import SignAscent
from advrush_tf.data.pipeline import bilevel_pairs, training_batches
from advrush_tf.figures.genotype import genotype_image
from advrush_tf.fit.model import AdvRushFitModel
from advrush_tf.fit.objectives import PGD
from advrush_tf.runs.tensorboard import (
    FitTensorBoard,
    RunTensorBoard,
    SearchTensorBoard,
    alphas_image,
    event_writer,
)
from advrush_tf.search.model import AdvRushSearchModel
from advrush_tf.training.optimizers import EpochCosine, MomentumSGD, OneCycle
from support.figure_spy import spy_on_figures
from support.hparams import hparams
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
RNG = np.random.default_rng(0)
X, Y = RNG.integers(0, 256, (24, 8, 8, 1), np.uint8), RNG.integers(0, 3, 24)


class FitKind:
    """A fit's callback, its model and data, and what of them is shown."""

    callback = FitTensorBoard
    tags = ("loss", "robust_accuracy")
    metrics = ("epoch/val_accuracy", "epoch/loss", "epoch/val_robust_accuracy")
    # Of each of the nine steps.
    rates: ClassVar = {
        "learning_rate": np.interp(np.arange(9) / 9, [0, 0.5, 1], [0, 0.2, 0])
    }

    def make_model(self):
        attack = SignAscent(0.125, 0.0625, 2)
        objective = PGD(0.125, 0.0625, 2)
        model = AdvRushFitModel(tiny_network(), objective, evaluation_attack=attack)
        model.compile(MomentumSGD(OneCycle(0.2, EPOCHS * STEPS)))
        return model

    def batches(self, epoch):
        return training_batches(X[:12], Y[:12], 4, initial_epoch=epoch)

    def step(self, model, logs):
        return logs


class SearchKind:
    """As `FitKind`, of a search; a step's values are not the epoch's running means."""

    callback = SearchTensorBoard
    tags = (
        *("loss", "accuracy", "alpha_loss", "alpha_accuracy"),
        *("penalty", "penalty_share", "entropy"),
    )
    metrics = ("epoch/val_accuracy", "epoch/loss", "epoch/penalty")
    rates: ClassVar = {
        "learning_rate": np.repeat(
            0.01 + 0.09 * (1 + np.cos(np.pi * np.arange(3) / 3)) / 2, STEPS
        ),
        "alpha_learning_rate": np.full(9, 3e-4),
    }

    def make_model(self):
        primitives = ("none", "skip_connect", "sep_conv_3x3")
        model = AdvRushSearchModel(3, (8, 8, 1), 2, 1, 2, primitives=primitives)
        model.compile(gamma=0)
        model.optimizer.learning_rate = EpochCosine(0.1, 0.01, EPOCHS, STEPS)
        return model

    def batches(self, epoch):
        return bilevel_pairs(X, Y, batch_size=4, initial_epoch=epoch)

    def step(self, model, logs):
        return model.last_step


class Spy(keras.callbacks.Callback):
    """Notes what the files have to hold; reads them while the run still goes on."""

    def __init__(self, folder, kind):
        super().__init__()
        self.folder, self.kind = folder, kind
        self.steps, self.drawings, self.on_disk = {}, [], []

    def on_train_batch_end(self, batch, logs=None):
        step = int(self.model.optimizer.iterations)
        values = self.kind.step(self.model, logs)
        self.steps[step] = {name: float(value) for name, value in values.items()}

    def on_epoch_end(self, epoch, logs=None):
        self.on_disk.append(read_scalars(self.folder)["epoch/loss"][-1][0])
        if isinstance(self.kind, SearchKind):
            self.drawings.append(genotype_image(self.model.genotype()))


def _reader(folder):
    return EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()


def _read(folder, plugin, decode):
    """What TensorBoard shows by a plugin: tag -> [(step, value), ...]."""
    reader = _reader(folder)
    return {
        tag: [
            (event.step, decode(tf.make_ndarray(event.tensor_proto)))
            for event in reader.Tensors(tag)
        ]
        for tag in reader.summary_metadata
        if reader.SummaryMetadata(tag).plugin_data.plugin_name == plugin
    }


def read_scalars(folder):
    return _read(folder, "scalars", float)


def read_images(folder):
    return _read(folder, "images", lambda parts: tf.image.decode_png(parts[2]).numpy())


def wait_for_the_next_second():
    """TensorBoard reads event files by name, which tells their order by the second."""
    time.sleep(1 - time.time() % 1)


@pytest.fixture(scope="module", params=[FitKind(), SearchKind()], ids=["fit", "search"])
def run(request, tmp_path_factory):
    """A run of two epochs, resumed for a third one by a new callback."""
    kind, folder = request.param, tmp_path_factory.mktemp("run") / "new" / "logs"
    keras.utils.set_random_seed(0)
    held_out = tf.data.Dataset.from_tensors((X[:4] / np.float32(255), Y[:4]))
    model, history, spies = kind.make_model(), {}, []
    for first, last in ((0, 2), (2, EPOCHS)):
        wait_for_the_next_second()
        batches, steps = kind.batches(first)
        assert steps == STEPS
        spies.append(Spy(folder, kind))
        logs = model.fit(
            batches,
            steps_per_epoch=STEPS,
            initial_epoch=first,
            epochs=last,
            validation_data=held_out,
            callbacks=[kind.callback(folder, HYPERPARAMETERS, EVERY), spies[-1]],
            verbose=0,
        )
        for name, values in logs.history.items():
            history.setdefault(name, []).extend(values)
    return kind, folder, history, spies


def test_epoch_scalars_are_the_history(run):
    kind, folder, history, _ = run
    found = read_scalars(folder)
    assert {*kind.tags, "val_loss", "val_accuracy"} <= set(history)
    for name, values in history.items():
        steps, written = zip(*found[f"epoch/{name}"], strict=True)
        assert steps == (1, 2, 3), name
        np.testing.assert_allclose(written, values, rtol=1e-6)
    assert {tag for tag in found if tag.startswith("epoch/")} == {
        f"epoch/{name}" for name in (*history, *kind.rates)
    }


def test_step_scalars_are_the_steps_and_go_on_after_a_resume(run):
    kind, folder, _, spies = run
    found = read_scalars(folder)
    expected = spies[0].steps | spies[1].steps
    assert list(expected) == list(range(1, 10))
    assert {tag for tag in found if tag.startswith("step/")} == {
        f"step/{name}" for name in (*kind.tags, *kind.rates)
    }
    for name in kind.tags:
        steps, written = zip(*found[f"step/{name}"], strict=True)
        assert steps == (2, 4, 6, 8)
        values = [expected[step][name] for step in steps]
        np.testing.assert_allclose(written, values, rtol=1e-6)


def test_learning_rates_are_those_that_the_steps_used(run):
    kind, folder, *_ = run
    found = read_scalars(folder)
    for name, rates in kind.rates.items():
        _, epochs = zip(*found[f"epoch/{name}"], strict=True)
        _, steps = zip(*found[f"step/{name}"], strict=True)
        np.testing.assert_allclose(epochs, rates[[0, 3, 6]], rtol=1e-5)
        np.testing.assert_allclose(steps, rates[[1, 3, 5, 7]], rtol=1e-5)


def test_each_epoch_is_on_disk_when_it_ends(run):
    assert [spy.on_disk for spy in run[-1]] == [[1, 2], [3]]


def test_pictures_show_the_alphas_and_the_genotype(run):
    kind, folder, _, spies = run
    found = read_images(folder)
    if not isinstance(kind, SearchKind):
        assert not found
        return
    assert set(found) == {"alphas/normal", "alphas/reduce", "genotype/cells"}
    for tag, pictures in found.items():
        assert [step for step, _ in pictures] == [1, 2, 3], tag
    drawings = spies[0].drawings + spies[1].drawings
    for (_, picture), drawing in zip(found["genotype/cells"], drawings, strict=True):
        np.testing.assert_array_equal(picture, drawing)


def test_histograms_show_the_alphas(run):
    kind, folder, *_ = run
    # Buckets of (low, high, count).
    found = _read(folder, "histograms", lambda buckets: buckets)
    if not isinstance(kind, SearchKind):
        assert not found
        return
    assert set(found) == {"alpha_values/normal", "alpha_values/reduce"}
    for epochs in found.values():
        assert [step for step, _ in epochs] == [1, 2, 3]
        for _, buckets in epochs:
            # Of five edges and three operations.
            assert buckets[:, 2].sum() == 15
            assert np.abs(buckets[:, :2]).max() < 0.1


def test_settings_are_hyperparameters_of_one_trial(run):
    kind, folder, *_ = run
    starts, experiments = hparams(folder)
    assert len(starts) == len(experiments) == 2
    for start in starts:
        values = {
            name: getattr(value, value.WhichOneof("kind"))
            for name, value in start.hparams.items()
        }
        expected = HYPERPARAMETERS | {"shape": "8, 8, 1", "nothing": "None"}
        assert values == expected
    assert {start.group_name for start in starts} == {f"new ({folder.parent})"}
    metrics = [info.name.tag for info in experiments[0].metric_infos]
    assert metrics == list(kind.metrics)
    assert set(metrics) <= set(read_scalars(folder))


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
    wait_for_the_next_second()
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
    pictures = dict(read_images(tmp_path)["square"])
    assert sorted(pictures) == [1, 2]
    np.testing.assert_array_equal(pictures[2], np.full((4, 4, 3), 10))


def test_a_folder_that_cannot_be_made_is_an_oserror(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        _fit(tmp_path / "file" / "logs", seed=0, epochs=1)


@contextlib.contextmanager
def full_disk():
    """No file may grow beyond 1 MB, less than the summaries that follow."""
    # Python ignores the signal that would end the process.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_disk_that_becomes_full_is_an_oserror(tmp_path):
    with (
        pytest.raises(OSError, match=r"^[^\n]*tfevents[^\n]*$"),
        full_disk(),
        event_writer(tmp_path),
    ):
        for _ in range(400):
            tf.summary.text("text", "x" * 4000)


@pytest.mark.parametrize("hook", ["on_train_begin", "on_epoch_end", "on_train_end"])
def test_every_hook_reports_what_cannot_be_written(hook, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    callback = RunTensorBoard(tmp_path, {})
    callback.set_model(LinearModel(0))
    callback.model.build((None, 2))
    if hook != "on_train_begin":
        callback.on_train_begin()
        for name in ("flush", "close"):
            monkeypatch.setattr(callback._writer, name, fail)
    monkeypatch.setattr(tf.summary, "create_file_writer", fail)
    with pytest.raises(OSError, match="No space left"):
        getattr(callback, hook)(*([0] if hook == "on_epoch_end" else []))


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


@pytest.mark.parametrize(
    ("weights", "low", "high"),
    [
        ([[0.1, 0.9], [0.6, 0.4]], 0.1, 0.9),
        ([[0.498, 0.502]], 0.498, 0.502),
        # No differences that the numbers do not show.
        ([[0.49999, 0.50001]], 0.4995, 0.5005),
    ],
)
def test_heat_maps_are_scaled_to_their_values(weights, low, high, monkeypatch):
    figures = spy_on_figures(monkeypatch)
    alphas_image(np.array(weights), ("a", "b"), "cell", [])
    limits = figures[0].axes[0].images[0].get_clim()
    assert limits == pytest.approx((low, high))


def test_equal_weights_can_be_drawn():
    weights = np.full((14, 8), 0.125)
    picture = alphas_image(weights, [f"operation {i}" for i in range(8)], "cell", [])
    assert np.isfinite(picture).all() and len(np.unique(picture)) > 10


@pytest.mark.parametrize("kind", [FitTensorBoard, SearchTensorBoard])
def test_rejects_a_distance_of_no_steps(tmp_path, kind):
    with pytest.raises(ValueError, match="every_steps must be 1 or more, not 0"):
        kind(tmp_path, {}, every_steps=0)
