"""A whole fit: from settings to a model in a folder, resumable."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from advrush_tf.data.dataset import ImageDataset, load_dataset
from advrush_tf.data.examples import Examples
from advrush_tf.data.parts import ALL, Shard
from advrush_tf.data.reading import reading_examples
from advrush_tf.errors import UserError
from advrush_tf.fit.model import AdvRushFitModel
from advrush_tf.genotypes.genotype import Genotype, get_genotype
from advrush_tf.nn.cell_network import CellNetwork
from advrush_tf.nn.classifier import ImageClassifier
from advrush_tf.nn.resnet import ResNet18
from advrush_tf.runs.checkpoints import CheckpointStore
from advrush_tf.runs.devices import Devices
from advrush_tf.runs.fit_record import (
    REPORT,
    EpochRecorder,
    FiniteLosses,
    FitRecord,
    print_summary,
    write_report,
)
from advrush_tf.runs.fit_settings import FitSettings
from advrush_tf.runs.progress import (
    ProgressBar,
    print_existing_summary,
    print_line,
    write_failure,
)
from advrush_tf.runs.recipes import NetworkName, Schedule
from advrush_tf.runs.settings import record_settings
from advrush_tf.runs.tensorboard import FitTensorBoard
from advrush_tf.training import optimizers

EVALUATION_BATCH = 256


def find_genotype(settings: FitSettings) -> Genotype | None:
    """The genotype that the settings name, None for a network without one.

    Raises:
        UserError: there is no such genotype.
    """
    return None if settings.genotype is None else _read_genotype(settings.genotype)


def _read_genotype(name_or_path: str | Path) -> Genotype:
    try:
        return get_genotype(name_or_path)
    except ValueError as error:
        raise UserError(str(error)) from None


def build_network(
    settings: FitSettings, dataset: ImageDataset, genotype: Genotype | None
) -> ImageClassifier:
    """The network to fit, with initial weights from the seed.

    Raises:
        UserError: the data set's images are too small for it.
    """
    keras.utils.set_random_seed(settings.seed)
    common: dict[str, Any] = {
        "num_classes": dataset.num_classes,
        "image_shape": dataset.image_shape,
        "init_channels": settings.init_channels,
        "mean": dataset.mean if settings.normalise else None,
        "std": dataset.std if settings.normalise else None,
        "dtype": settings.precision.value,
        "synchronized": settings.sync_batch_norm,
        # Keras' own name counts the networks of a process.
        "name": f"{settings.network}_network",
    }
    try:
        if settings.network is NetworkName.RESNET18:
            return ResNet18(**common)
        cells: dict[str, Any] = {
            "genotype": genotype,
            "num_cells": settings.num_cells,
            "stem": settings.stem,
            "auxiliary": bool(settings.auxiliary_weight),
            "drop_path": settings.drop_path,
            "seed": settings.seed,
            "recompute_cells": settings.recompute_cells,
        }
        return CellNetwork(**cells, **common)
    except ValueError as error:
        raise UserError(f"This network cannot be built: {error}.") from None


def make_model(
    settings: FitSettings, network: keras.Model, steps_per_epoch: int
) -> AdvRushFitModel:
    """The model that fits a network, compiled, as the settings say."""
    model = AdvRushFitModel(
        network,
        settings.make_objective(),
        auxiliary_weight=settings.auxiliary_weight or 0.0,
        awp_gamma=settings.awp_gamma,
        ema_decay=settings.ema_decay,
        evaluation_attack=settings.evaluation_attack,
        seed=settings.seed,
    )
    model.compile(
        optimizers.MomentumSGD(
            make_schedule(settings, steps_per_epoch),
            settings.momentum,
            settings.weight_l2,
            settings.clip_norm or None,
        ),
        jit_compile=settings.jit_compile,
    )
    return model


def make_schedule(
    settings: FitSettings, steps_per_epoch: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    """The learning rate's schedule.

    A piecewise rate drops with the epoch, counted from 1, that a milestone names: at
    half of 200 epochs with the 100th, as in the official code.
    """
    rate, epochs = settings.learning_rate, settings.epochs
    if settings.schedule is Schedule.COSINE:
        return optimizers.EpochCosine(
            rate, settings.learning_rate_min, epochs, steps_per_epoch
        )
    if settings.schedule is Schedule.ONE_CYCLE:
        return optimizers.OneCycle(rate, epochs * steps_per_epoch)
    if settings.schedule is Schedule.EXPONENTIAL:
        return keras.optimizers.schedules.ExponentialDecay(
            rate, steps_per_epoch, settings.decay, staircase=True
        )
    # The first epoch always has the full rate.
    drops = [max(round(share * epochs) - 1, 1) for share in settings.milestones]
    return keras.optimizers.schedules.PiecewiseConstantDecay(
        # Keras still uses the earlier value in the boundary's own step.
        [epoch * steps_per_epoch - 1 for epoch in drops],
        [rate * settings.decay**index for index in range(len(drops) + 1)],
    )


class FitData:
    """The parts of a data set that a fit uses.

    Args:
        settings: the fit's settings.
        dataset: the data set.

    Attributes:
        train, held_out: the parts of its training examples.
        steps_per_epoch: number of training batches in an epoch.

    Raises:
        UserError: the settings do not fit the data set.
    """

    def __init__(self, settings: FitSettings, dataset: ImageDataset):
        self._settings, self._dataset = settings, dataset
        images, portion = len(dataset.train), 1 - settings.validation_portion
        settings.require(
            "validation_portion",
            0 < round(portion * images) < images,
            f"a share that leaves neither part of the {images} training images empty",
        )
        try:
            self.train, self.held_out = dataset.train.split(portion, settings.seed)
            self._augmentation = dataset.augmentation(
                settings.augment, settings.cutout or 0
            )
            self.steps_per_epoch = self._training()[1]
        except ValueError as error:
            raise UserError(str(error)) from None

    def training(self, initial_epoch: int = 0, part: Shard = ALL) -> Any:
        """Augmented batches of all but the held-out part, without an end."""
        return self._training(initial_epoch, part)[0]

    def _training(self, initial_epoch: int = 0, part: Shard = ALL) -> tuple[Any, int]:
        return self.train.training_batches(
            self._settings.batch_size,
            self._settings.seed,
            self._augmentation,
            initial_epoch,
            self._dataset.mean,
            part,
        )

    def validation(self, part: Shard = ALL) -> Any:
        """Batches of the held-out part of the training split."""
        return _evaluation_batches(self.held_out, part)

    def test(self) -> Any:
        """Batches of the test split, or of its first images: for the report alone."""
        test = self._dataset.test
        return _evaluation_batches(test.first(self._settings.test_images or len(test)))


def _evaluation_batches(examples: Examples, part: Shard = ALL) -> Any:
    return examples.evaluation_batches(min(EVALUATION_BATCH, len(examples)), part)


def run_fit(
    settings: FitSettings,
    workdir: str | Path,
    data_dir: str | None = None,
    devices: Devices | None = None,
    say: Callable[[str], None] = print_line,
) -> dict[str, Any]:
    """Runs a fit, or resumes the one that `workdir` holds.

    Args:
        settings: the fit's settings.
        workdir: folder that receives settings.json, genotype.json, checkpoints/,
            tensorboard/, model.keras (the best weights), model_last.keras, fit.json and
            a drawing of its curves; of several workers the chief alone uses it.
        data_dir: tfds' folder of prepared data sets.
        devices: on which to run; one device if None.
        say: receives the lines for the user.

    Returns:
        What fit.json holds.

    Raises:
        UserError: the input is at fault; one clear line.
        NonFiniteLossError: a loss became NaN or infinite; the last checkpoint stays.
        WorkerLostError: another worker of the run is gone.
    """
    devices = devices or Devices()
    say = devices.chiefs(say)
    with devices.watched():
        return _run_fit(settings, Path(workdir), data_dir, devices, say)


def _run_fit(
    settings: FitSettings,
    workdir: Path,
    data_dir: str | None,
    devices: Devices,
    say: Callable[[str], None],
) -> dict[str, Any]:
    genotype = find_genotype(settings)
    dataset = load_dataset(settings.dataset, data_dir, settings.image_size)
    settings = settings.for_images(dataset.image_shape)
    devices.check(settings.batch_size, settings.jit_compile)
    # Paths are alike on all workers; what is there need not be.
    found = None if genotype is None else genotype.to_dict()
    devices.agree(settings.to_dict() | dataset.facts() | {"genotype's content": found})
    with devices.scope():
        network = build_network(settings, dataset, genotype)
        data = FitData(settings, dataset)
        model = make_model(settings, network, data.steps_per_epoch)

    def finished() -> bytes:
        # Only now: settings that do not fit the data must not mark the workdir.
        record_settings(settings, workdir)
        _record_genotype(genotype, workdir)
        if (report := workdir / REPORT).exists():
            return json.dumps(
                print_existing_summary(report, print_summary, say, "fit")
            ).encode()
        return b""

    def fitted() -> bytes:
        report = write_report(model, data.test(), settings, record, workdir, say)
        return json.dumps(report).encode()

    try:
        if report := devices.from_chief(finished):
            return json.loads(report)
        with reading_examples():
            record = _fit(model, data, settings, workdir, devices, say)
            return json.loads(devices.from_chief(fitted))
    except OSError as error:
        raise UserError(write_failure(workdir, error)) from None


def _record_genotype(genotype: Genotype | None, workdir: Path) -> None:
    """Keeps the genotype beside what it leads to; a path may later name another."""
    path = workdir / "genotype.json"
    if genotype is None:
        return
    if not path.exists():
        genotype.save(path)
    elif _read_genotype(path) != genotype:
        raise UserError(
            f"{path} is another genotype than the one given. Give another --workdir, "
            "or the same genotype to resume."
        )


def _fit(
    model: AdvRushFitModel,
    data: FitData,
    settings: FitSettings,
    workdir: Path,
    devices: Devices,
    say: Callable[[str], None],
) -> FitRecord:
    store = CheckpointStore(workdir / "checkpoints")
    epoch, notes = store.restore(model, say, devices.from_chief)
    record = FitRecord.from_notes(notes)
    if epoch:
        say(f"Resuming {workdir} after epoch {epoch} of {settings.epochs}.")
    validation_steps = int(data.validation().cardinality())
    with ProgressBar(data.steps_per_epoch, validation_steps) as bar:
        # The checkpoint first: what TensorBoard shows is then never repeated.
        writers = [
            bar,
            EpochRecorder(settings, workdir, store, record, say),
            FitTensorBoard(workdir / "tensorboard", settings.to_dict()),
        ]
        model.fit(
            devices.distribute(lambda part: data.training(epoch, part)),
            steps_per_epoch=data.steps_per_epoch,
            initial_epoch=epoch,
            epochs=settings.epochs,
            verbose=0,
            shuffle=False,
            validation_data=devices.distribute(data.validation),
            validation_steps=validation_steps,
            validation_freq=evaluated_epochs(settings),
            callbacks=[FiniteLosses(), *(writers if devices.chief else [])],
        )
    return record


def evaluated_epochs(settings: FitSettings) -> list[int]:
    """The epochs, counted from 1, after which the accuracies are measured."""
    every = settings.robust_eval_every
    return sorted({*range(every, settings.epochs + 1, every), settings.epochs})
