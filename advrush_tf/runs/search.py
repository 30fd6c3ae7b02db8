"""A whole search: from settings to a genotype in a folder, resumable."""

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from advrush_tf.data.dataset import ImageDataset
from advrush_tf.data.examples import ALL, Examples, Shard, even_batch
from advrush_tf.data.pipeline import pairs
from advrush_tf.data.streaming import reading_examples
from advrush_tf.errors import UserError, one_line
from advrush_tf.figures.genotype import CAN_DRAW, NEEDED, draw_cells
from advrush_tf.figures.search import draw_alphas, draw_history
from advrush_tf.files import read_json, write_json
from advrush_tf.genotypes.genotype import Genotype
from advrush_tf.nn.checks import check_finite
from advrush_tf.runs.devices import Devices
from advrush_tf.runs.memory import check_memory, least_bytes
from advrush_tf.runs.progress import ProgressBar, TracingNotice, print_line
from advrush_tf.runs.run import Log, Run
from advrush_tf.runs.search_settings import SearchSettings
from advrush_tf.runs.tensorboard import SearchTensorBoard, event_writer
from advrush_tf.search.history import read_history
from advrush_tf.search.model import AdvRushSearchModel
from advrush_tf.search.penalty import Penalty
from advrush_tf.training import optimizers
from advrush_tf.version import __version__

# A larger share of skip connections in the normal cell's edges is a collapse.
_MOST_SKIPS = 0.5
# In a checkpoint's notes.
_GENOTYPES = "genotypes"


def build_model(settings: SearchSettings, dataset: ImageDataset) -> AdvRushSearchModel:
    """The search model for a data set, with initial weights from the seed.

    Raises:
        UserError: the data set's images are too small for so many cells, or the
            memory is.
    """
    height, width, _ = dataset.image_shape
    check_memory(
        least_bytes(
            settings.batch_size // tf.distribute.get_strategy().num_replicas_in_sync,
            height * width,
            settings.init_channels,
            settings.num_cells,
            settings.num_nodes,
        )
    )
    keras.utils.set_random_seed(settings.seed)
    try:
        return AdvRushSearchModel(
            dataset.num_classes,
            dataset.image_shape,
            init_channels=settings.init_channels,
            num_cells=settings.num_cells,
            num_nodes=settings.num_nodes,
            stem_multiplier=settings.stem_multiplier,
            primitives=settings.primitives,
            mean=dataset.mean,
            std=dataset.std,
            synchronized=settings.sync_batch_norm,
            recompute_cells=settings.recompute_cells,
            dtype=settings.precision.value,
        )
    except ValueError as error:
        raise UserError(f"This supernet cannot be built: {error}.") from None


def compile_model(
    model: AdvRushSearchModel, settings: SearchSettings, steps_per_epoch: int
) -> None:
    """Compiles a search model as the settings say."""
    schedule = optimizers.EpochCosine(
        settings.learning_rate,
        settings.learning_rate_min,
        settings.epochs,
        steps_per_epoch,
    )
    model.compile(
        optimizers.MomentumSGD(
            schedule, settings.momentum, settings.weight_l2, settings.clip_norm or None
        ),
        optimizers.L2Adam(
            settings.alpha_learning_rate,
            settings.alpha_beta_1,
            settings.alpha_beta_2,
            l2=settings.alpha_l2,
        ),
        gamma=settings.gamma,
        lambda_=settings.lambda_,
        h=settings.h,
        warmup_epochs=settings.warmup_epochs,
        squared=settings.penalty is Penalty.SQUARED_NORM,
        penalty_batch=settings.penalty_batch or None,
        jit_compile=settings.jit_compile,
    )


def make_pairs(
    settings: SearchSettings,
    dataset: ImageDataset,
    initial_epoch: int = 0,
    part: Shard = ALL,
) -> tuple[Any, int]:
    """The bilevel pairs of a search, see `pairs`.

    Raises:
        UserError: the settings do not fit the data set.
    """
    images = len(_train_images(settings, dataset))
    settings.require(
        "train_portion",
        0 < round(settings.train_portion * images) < images,
        f"a share that leaves neither half of the {images} training images empty",
    )
    try:
        return pairs(
            *halves(settings, dataset),
            settings.batch_size,
            settings.seed,
            dataset.augmentation(settings.augment, settings.cutout),
            initial_epoch,
            dataset.mean,
            part,
        )
    except ValueError as error:
        raise UserError(str(error)) from None


def halves(
    settings: SearchSettings, dataset: ImageDataset
) -> tuple[Examples, Examples]:
    """Returns the training images of the weights and those of the alphas."""
    images = _train_images(settings, dataset)
    return images.split(settings.train_portion, settings.seed)


def _train_images(settings: SearchSettings, dataset: ImageDataset) -> Examples:
    count = settings.train_images or len(dataset.train)
    return dataset.train.drawn(count, settings.seed)


def validation_batches(
    settings: SearchSettings, dataset: ImageDataset, part: Shard = ALL
) -> Any:
    """The alpha half without augmentation: the test split is not for the search."""
    images = halves(settings, dataset)[1]
    return images.evaluation_batches(even_batch(len(images)), part)


def run_search(
    settings: SearchSettings,
    workdir: str | Path,
    data_dir: str | None = None,
    devices: Devices | None = None,
    log: Log = print_line,
) -> Genotype:
    """Runs a search, or resumes the one that `workdir` holds.

    Args:
        settings: the search's settings.
        workdir: folder that receives settings.json, checkpoints/, tensorboard/,
            genotypes/ (one per epoch), genotype.json and the drawings of its cells.
        data_dir: tfds' folder of prepared data sets.
        devices: on which to run; one device if None.
        log: receives the lines for the user.

    Returns:
        The found genotype.

    Raises:
        UserError: the input is at fault; one clear line.
        NonFiniteLossError: a loss became NaN or infinite; the last checkpoint stays.
        WorkerLostError: another worker of the run is gone.
    """
    with Run(settings, workdir, devices, log, data_dir) as run:
        dataset = run.load_dataset(settings.dataset, settings.image_size)
        run.devices.check(settings.batch_size, settings.jit_compile)
        settings.check_replicas(run.devices.num_replicas)
        run.agree(dataset)
        with run.devices.scope():
            started = time.perf_counter()
            model = build_model(settings, dataset)
            building = time.perf_counter() - started
            _, steps = make_pairs(settings, dataset)
            compile_model(model, settings, steps)
        run.open(dataset)
        run.print_outline("search", dataset, [model])
        for half in halves(settings, dataset):
            run.name_missing_classes(dataset, half, "images of a half of the data")
        _search(model, dataset, steps, building, run)
        run.devices.on_chief(lambda: _finish(model, run))
        return model.genotype(_provenance(model, settings, settings.epochs))


def _search(
    model: AdvRushSearchModel,
    dataset: ImageDataset,
    steps: int,
    building: float,
    run: Run[SearchSettings],
) -> None:
    settings, devices = run.settings, run.devices
    epoch, notes = run.restore(model, settings.epochs)
    batches = devices.distribute(
        lambda part: make_pairs(settings, dataset, epoch, part)[0]
    )
    validation_steps = int(validation_batches(settings, dataset).cardinality())
    # As many times the building as were measured (docs/numbers.md). In a warm-up the
    # penalty's graph is made on the way; its first run remains.
    tracing = {epoch: 12 * building}
    if settings.gamma and settings.warmup_epochs > epoch:
        tracing[settings.warmup_epochs] = 12 * building
    elif settings.gamma:
        tracing[epoch] += 23 * building
    with reading_examples(), ProgressBar(steps, validation_steps) as bar:
        # The checkpoint first: what TensorBoard shows is then never repeated.
        tensorboard = SearchTensorBoard(run.workdir / "tensorboard", settings.to_dict())
        notice = TracingNotice(run.log, tracing)
        writers = [notice, bar, EpochRecorder(run, notes), tensorboard]
        model.fit(
            batches,
            steps_per_epoch=steps,
            initial_epoch=epoch,
            epochs=settings.epochs,
            verbose=0,
            validation_data=devices.distribute(
                lambda part: validation_batches(settings, dataset, part)
            ),
            validation_steps=validation_steps,
            callbacks=writers if devices.chief else [],
        )


def _provenance(
    model: AdvRushSearchModel, settings: SearchSettings, epoch: int
) -> dict[str, Any]:
    normal, reduce = (alphas.numpy().tolist() for alphas in model.alphas)
    return {
        "library": f"advrush_tf {__version__}",
        "dataset": settings.dataset,
        "seed": settings.seed,
        "epoch": epoch,
        "settings": settings.to_dict(),
        "alphas_normal": normal,
        "alphas_reduce": reduce,
    }


def _finish(model: AdvRushSearchModel, run: Run[SearchSettings]) -> None:
    settings, workdir, log = run.settings, run.workdir, run.log
    genotype = model.genotype(_provenance(model, settings, settings.epochs))
    path = workdir / "genotype.json"
    genotype.save(path)
    drawings = draw_cells(genotype, workdir / "genotype") if CAN_DRAW else [NEEDED]
    log(f"\n{genotype!r}\n")
    log(f"Genotype     {path}")
    log(f"Drawings     {', '.join(str(drawing) for drawing in drawings)}")
    log(f"Every epoch  {workdir / 'genotypes'}")
    log(f"Checkpoints  {run.store.folder}")
    flags = _suitable_fit(settings)
    run.print_next("fit", genotype=path, workdir=f"{workdir}_fit", **flags)


def _suitable_fit(settings: SearchSettings) -> dict[str, int | None]:
    """The sizes of a fit that takes about as long as its search, as flags.

    The official search is followed by the official fit, which takes far longer.
    """
    # What is tried on few images is tried on few once more.
    images = settings.train_images
    flags = {"train_images": images, "test_images": images}
    # Where left and right differ for a search, they do for a fit.
    flags["augment"] = None if settings.augment else False
    official, sizes = SearchSettings(), ("init_channels", "num_cells", "epochs")
    own = {name: getattr(settings, name) for name in sizes}
    if any(own[name] != getattr(official, name) for name in sizes):
        flags |= own
    # Few images may not fill the recipe's batch.
    if settings.batch_size < official.batch_size:
        flags["batch_size"] = settings.batch_size
    return flags


class EpochRecorder(keras.callbacks.Callback):
    """Writes each epoch's genotype and a checkpoint, and logs a line on it.

    The genotype's provenance holds all that the epoch's logs say, as `metrics`.

    Args:
        run: the search.
        notes: of the checkpoint that it goes on from, with the genotypes so far.
    """

    def __init__(self, run: Run[SearchSettings], notes: Mapping[str, Any]):
        super().__init__()
        self._run = run
        self._folder = run.workdir / "genotypes"
        # What `Genotype.to_dict` gives, by the file's name.
        self._genotypes = dict(notes.get(_GENOTYPES, {}))

    def on_train_begin(self, logs=None):
        """Writes the genotypes of finished epochs again that are damaged or gone."""
        self._folder.mkdir(exist_ok=True)
        for name, genotype in self._genotypes.items():
            path = self._folder / name
            with contextlib.suppress(FileNotFoundError, ValueError):
                if read_json(path) == genotype:
                    continue
            write_json(path, genotype)

    def on_epoch_begin(self, epoch, logs=None):
        self._started = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        finished, run = epoch + 1, self._run
        check_finite(self.model.supernet.weights, epoch + 1)
        provenance = _provenance(self.model, run.settings, finished)
        provenance["metrics"] = _finite(logs)
        genotype = self.model.genotype(provenance)
        name = f"epoch_{finished:04d}.json"
        genotype.save(self._folder / name)
        self._genotypes[name] = genotype.to_dict()
        run.store.save(self.model, finished, {_GENOTYPES: self._genotypes})
        seconds = time.perf_counter() - self._started
        run.log(epoch_line(finished, run.settings, logs, seconds))
        if warning := collapse_warning(genotype):
            run.log(warning)


def _finite(logs: dict[str, float]) -> dict[str, float]:
    """The finite logs, as JSON needs: a held-out loss may overflow before a weight."""
    return {name: float(v) for name, v in logs.items() if np.isfinite(v)}


def epoch_line(
    epoch: int, settings: SearchSettings, logs: Mapping[str, float], seconds: float
) -> str:
    """Returns one line on an epoch.

    Accuracies are those of the weights' half and of the alphas' one. The entropy is
    that of an edge's weights, in percent below the most that it can be, from which a
    search moves away slowly.
    """
    most = np.log(len(settings.primitives))
    below = max(0.0, 100 * (1 - logs["entropy"] / most))
    return (
        f"epoch {epoch}/{settings.epochs}  loss {logs['loss']:.3g} "
        f"acc {logs['accuracy']:.3f} val {logs['val_accuracy']:.3f}  "
        f"alphas {logs['alpha_loss']:.3g} penalty {logs['penalty']:.3g} "
        f"entropy -{below:.2g}%  {seconds:.0f} s"
    )


def collapse_warning(genotype: Genotype) -> str | None:
    """A warning if most of the normal cell's edges are skip connections."""
    skips = genotype.operation_counts()["normal"].get("skip_connect", 0)
    total = len(genotype.normal)
    if skips <= _MOST_SKIPS * total:
        return None
    return (
        f"WARNING: {skips} of the normal cell's {total} edges are skip connections: "
        "the search is collapsing. Fewer epochs or a smaller alpha learning rate help."
    )


def draw_search(run: Path, name: str, workdir: Path, log: Log) -> None:
    """Draws the history of a search into a folder.

    Args:
        run: the search's workdir.
        name: what the figures' names have after "search_".
        workdir: receives the figures, also in tensorboard/; made if it is not there.
        log: receives the lines for the user.

    Raises:
        UserError: the search's files are damaged.
        OSError: a figure could not be written.
    """
    history = read_history(run)
    workdir.mkdir(parents=True, exist_ok=True)
    stem = f"search_{name}"
    try:
        pictures = {f"{stem}/history": draw_history(history, workdir / f"{stem}.png")}
        for kind in ("normal", "reduce"):
            path = workdir / f"{stem}_alphas_{kind}.png"
            pictures[f"{stem}/alphas_{kind}"] = draw_alphas(history, kind, path)
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"The history in {run} is damaged ({one_line(error)}); copy it again."
        ) from None
    with event_writer(workdir / "tensorboard"):
        for title, picture in pictures.items():
            tf.summary.image(title, picture[np.newaxis])
    ends = ("", "_alphas_normal", "_alphas_reduce")
    written = ", ".join(str(workdir / f"{stem}{end}.png") for end in ends)
    log(f"History      of {run}: {written}")
