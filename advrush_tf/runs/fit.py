"""A whole fit: from settings to a model in a folder, resumable."""

import time
from pathlib import Path
from typing import Any

import attrs
import keras
import numpy as np
import tensorflow as tf

from advrush_tf.data.dataset import ImageDataset
from advrush_tf.data.examples import ALL, Examples, Shard, even_batch
from advrush_tf.data.streaming import reading_examples
from advrush_tf.errors import AnotherRunError, UserError
from advrush_tf.files import sha256
from advrush_tf.fit.model import AdvRushFitModel
from advrush_tf.genotypes.genotype import Genotype, get_genotype
from advrush_tf.nn.cell_network import CellNetwork, Stem
from advrush_tf.nn.resnet import ResNet18
from advrush_tf.runs.devices import Devices
from advrush_tf.runs.fit_record import (
    BEST,
    REPORT,
    EpochRecorder,
    FiniteLosses,
    FitRecord,
    draw_record,
    print_existing,
    write_report,
)
from advrush_tf.runs.fit_settings import FitSettings, NetworkName, Schedule
from advrush_tf.runs.memory import check_memory, least_bytes
from advrush_tf.runs.models import load_classifier, open_classifier
from advrush_tf.runs.progress import ProgressBar, TracingNotice, print_line
from advrush_tf.runs.run import Log, Run
from advrush_tf.runs.tensorboard import FitTensorBoard
from advrush_tf.training import optimizers

# Images for a look at the answers of the fitted network.
_LOOK = 64
_USUAL_RADIUS = FitSettings().epsilon


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
) -> keras.Model:
    """The network to fit: that of a file, or a new one with weights from the seed.

    Raises:
        UserError: the data set's images are too small for it, or the memory is; or the
            file's network does not fit the data set.
    """
    if settings.model is not None:
        return _existing_network(Path(settings.model), settings, dataset)
    assert settings.init_channels and settings.precision
    check_memory(_least_bytes(settings, dataset, genotype))
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


def _existing_network(
    path: Path, settings: FitSettings, dataset: ImageDataset
) -> keras.Model:
    keras.utils.set_random_seed(settings.seed)
    network = load_classifier(path)
    open_classifier(network, path, dataset, settings.batch_size)
    if not network.trainable_variables:
        raise UserError(
            f"{path} has no trainable weights to fit; set `trainable` of its layers "
            "and save it again."
        )
    return network


def _least_bytes(
    settings: FitSettings, dataset: ImageDataset, genotype: Genotype | None
) -> int:
    height, width, _ = dataset.image_shape
    halvings = 3 if settings.stem is Stem.IMAGENET else 0
    cells = (settings.num_cells, genotype.num_nodes) if genotype else ()
    return least_bytes(
        settings.batch_size // tf.distribute.get_strategy().num_replicas_in_sync,
        height * width // 4**halvings,
        settings.init_channels or 0,
        *cells,
    )


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
        tested: the test examples, or a sample of them, for the report alone.
        split: name of the split of the test examples.
        steps_per_epoch: number of training batches in an epoch.

    Raises:
        UserError: the settings do not fit the data set.
    """

    def __init__(self, settings: FitSettings, dataset: ImageDataset):
        self._settings, self._dataset = settings, dataset
        self.split = dataset.test_split
        count = settings.train_images or len(dataset.train)
        train = dataset.train.drawn(count, settings.seed)
        images, portion = len(train), 1 - settings.validation_portion
        settings.require(
            "validation_portion",
            0 < round(portion * images) < images,
            f"a share that leaves neither part of the {images} training images empty",
        )
        try:
            self.train, self.held_out = train.split(portion, settings.seed)
            self._augmentation = dataset.augmentation(
                settings.augment, settings.cutout or 0
            )
            self.steps_per_epoch = self._training()[1]
            count = settings.test_images or len(dataset.test)
            self.tested = dataset.test.drawn(count, settings.seed)
        except ValueError as error:
            raise UserError(str(error)) from None

    @property
    def parts(self) -> dict[str, Examples]:
        """The examples by what they are."""
        return {
            "training images": self.train,
            "held-out images": self.held_out,
            "test images": self.tested,
        }

    def training(self, initial_epoch: int = 0, part: Shard = ALL) -> Any:
        """Augmented batches of all but the held-out part, without an end."""
        return self._training(initial_epoch, part)[0]

    def _training(self, initial_epoch: int = 0, part: Shard = ALL) -> tuple[Any, int]:
        return self.train.training_batches(
            self._settings.batch_size,
            self._settings.seed,
            self._augmentation,
            initial_epoch,
            self._dataset.mean if self._settings.normalise else None,
            part,
        )

    def validation(self, part: Shard = ALL) -> Any:
        """Batches of the held-out part of the training split."""
        return _evaluation_batches(self.held_out, part)

    def test(self) -> Any:
        """Batches of the test examples."""
        return _evaluation_batches(self.tested)

    def few_tested(self) -> tuple[np.ndarray, np.ndarray]:
        """A few of the test examples: images in [0, 1], and labels."""
        return self.tested.drawn(_LOOK, self._settings.seed).unit_arrays()


def _evaluation_batches(examples: Examples, part: Shard = ALL) -> Any:
    return examples.evaluation_batches(even_batch(len(examples)), part)


def run_fit(
    settings: FitSettings,
    workdir: str | Path,
    data_dir: str | None = None,
    devices: Devices | None = None,
    log: Log = print_line,
) -> dict[str, Any]:
    """Runs a fit, or resumes the one that `workdir` holds.

    Args:
        settings: the fit's settings.
        workdir: folder that receives settings.json, genotype.json, checkpoints/,
            tensorboard/, model.keras (the best weights), model_last.keras, fit.json and
            a drawing of its curves.
        data_dir: tfds' folder of prepared data sets.
        devices: on which to run; one device if None.
        log: receives the lines for the user.

    Returns:
        The content of fit.json.

    Raises:
        UserError: the input is at fault; one clear line.
        NonFiniteLossError: a loss became NaN or infinite; the last checkpoint stays.
        WorkerLostError: another worker of the run is gone.
    """
    with Run(settings, workdir, devices, log, data_dir) as run:
        genotype = find_genotype(settings)
        dataset = run.load_dataset(settings.dataset, settings.image_size)
        settings = settings.for_images(dataset.image_shape)
        run.settings = settings = _with_checksum(settings)
        run.devices.check(settings.batch_size, settings.jit_compile)
        # One path may name another file on each worker.
        found = None if genotype is None else genotype.to_dict()
        run.agree(dataset, **{"genotype's content": found})
        with run.devices.scope():
            started = time.perf_counter()
            network = build_network(settings, dataset, genotype)
            building = time.perf_counter() - started
            data = FitData(settings, dataset)
            model = make_model(settings, network, data.steps_per_epoch)
        run.open(dataset)
        run.devices.on_chief(lambda: _record_genotype(genotype, run.workdir))
        run.print_outline("fit", dataset, [network])
        for images, examples in data.parts.items():
            run.name_missing_classes(dataset, examples, images)
        report = run.finished(REPORT, print_existing, "fit")
        report = report or _fit_and_report(model, data, building, run)
        run.devices.on_chief(lambda: draw_record(report, run.workdir))
        run.print_next(
            "attack",
            model=run.workdir / BEST,
            # The usual 0.031 stands for 8/255, the default there.
            epsilon=None if settings.epsilon == _USUAL_RADIUS else settings.epsilon,
            test_images=settings.test_images or None,
            workdir=f"{run.workdir}_attack",
        )
        return report


def _with_checksum(settings: FitSettings) -> FitSettings:
    """The settings with that of the file whose network is fitted on, if it is there."""
    path = settings.model
    found = sha256(Path(path)) if path and Path(path).is_file() else None
    return attrs.evolve(settings, sha256=found)


def _fit_and_report(
    model: AdvRushFitModel, data: FitData, building: float, run: Run[FitSettings]
) -> dict[str, Any]:
    with reading_examples():
        record = _fit(model, data, building, run)
        return run.conclude(
            REPORT,
            lambda: write_report(
                model,
                data.test(),
                data.few_tested(),
                data.split,
                run.settings,
                record,
                run.workdir,
                run.store,
                run.log,
            ),
        )


def _record_genotype(genotype: Genotype | None, workdir: Path) -> None:
    """Keeps the genotype beside what it leads to; a path may later name another."""
    path = workdir / "genotype.json"
    if genotype is None:
        return
    if not path.exists():
        genotype.save(path)
    elif _read_genotype(path) != genotype:
        raise AnotherRunError(
            f"{path} is another genotype than the one given. Give another --workdir, "
            "or the same genotype to resume."
        )


def _fit(
    model: AdvRushFitModel, data: FitData, building: float, run: Run[FitSettings]
) -> FitRecord:
    settings, workdir, devices = run.settings, run.workdir, run.devices
    epoch, notes = run.restore(model, settings.epochs)
    record = FitRecord.from_notes(notes)
    validation_steps = int(data.validation().cardinality())
    with ProgressBar(data.steps_per_epoch, validation_steps) as bar:
        # The checkpoint first: what TensorBoard shows is then never repeated.
        writers = [
            # So many times the building were measured (docs/numbers.md).
            TracingNotice(run.log, {epoch: 13 * building}),
            bar,
            EpochRecorder(settings, workdir, run.store, record, run.log),
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
