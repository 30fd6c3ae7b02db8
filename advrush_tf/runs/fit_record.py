"""The record of a fit: its history, its best weights, its report."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from advrush_tf.errors import NonFiniteLossError, UserError
from advrush_tf.figures.fit import draw_curves
from advrush_tf.files import json_copy, write_json
from advrush_tf.fit.model import AdvRushFitModel
from advrush_tf.runs.checkpoints import CheckpointStore
from advrush_tf.runs.fit_settings import FitSettings, Selection
from advrush_tf.runs.models import load_classifier, save_model
from advrush_tf.runs.profiling import count_parameters
from advrush_tf.runs.progress import ProgressBar
from advrush_tf.runs.table import Table, accuracy_text
from advrush_tf.version import __version__

BEST, LAST = "model.keras", "model_last.keras"
REPORT, CURVES = "fit.json", "curves.png"


@dataclasses.dataclass
class FitRecord:
    """The history of a fit so far; checkpoints contain it.

    Attributes:
        history: a row an epoch, from 1: losses, accuracies, learning rate, seconds.
        best: the row of the best weights.
        seconds: wall time of the finished epochs.
    """

    history: list[dict[str, float]] = dataclasses.field(default_factory=list)
    best: dict[str, float] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0

    @classmethod
    def from_notes(cls, notes: Mapping[str, Any]) -> "FitRecord":
        """Returns the record in a checkpoint's notes; a new one if they are empty."""
        return cls(**notes)

    def add(self, row: dict[str, float], selection: Selection) -> bool:
        """Adds an epoch and returns whether its weights are the best so far.

        The accuracy that `selection` names decides, then the other one.
        """
        self.history.append(row)
        self.seconds += row["seconds"]
        names = ["val_robust_accuracy", "val_accuracy"]
        if selection is Selection.CLEAN:
            names.reverse()
        better = "val_accuracy" in row and (
            not self.best or [row[n] for n in names] > [self.best[n] for n in names]
        )
        if better:
            self.best = row
        return better


class FiniteLosses(keras.callbacks.Callback):
    """Raises NonFiniteLossError when a loss is NaN or infinite."""

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch + 1

    def on_train_batch_end(self, batch, logs=None):
        self._check("loss", logs)

    def on_epoch_end(self, epoch, logs=None):
        # The last step's weights have given no training loss yet.
        self._check("val_loss", logs)

    def _check(self, name: str, logs: Mapping[str, float]) -> None:
        if not np.isfinite(loss := float(logs.get(name, 0.0))):
            steps = int(self.model.optimizer.iterations.numpy())
            raise NonFiniteLossError(
                f"{name} became {loss} in epoch {self._epoch}, after {steps} steps"
            )


class EpochRecorder(keras.callbacks.Callback):
    """Saves the best weights and a checkpoint after each epoch, and logs a line.

    Args:
        settings: settings of the fit.
        workdir: folder of the fit.
        store: store of the checkpoints.
        record: record so far; it is extended.
        log: receives one line an epoch.
    """

    def __init__(
        self,
        settings: FitSettings,
        workdir: Path,
        store: CheckpointStore,
        record: FitRecord,
        log: Callable[[str], None],
    ):
        super().__init__()
        self._settings = settings
        self._workdir = workdir
        self._store = store
        self._record = record
        self._log = log

    def on_epoch_begin(self, epoch, logs=None):
        self._started = time.perf_counter()
        self._rate = float(
            keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)
        )

    def on_epoch_end(self, epoch, logs=None):
        row = {
            "epoch": epoch + 1,
            **{name: float(value) for name, value in logs.items()},
            "learning_rate": self._rate,
            "seconds": time.perf_counter() - self._started,
        }
        better = self._record.add(row, self._settings.select_by)
        # Before the checkpoint: an epoch that is repeated writes the same file again.
        if better:
            save_network(self.model, self._settings, row, self._workdir / BEST)
        self._store.save(self.model, epoch + 1, dataclasses.asdict(self._record))
        self._log(epoch_line(row, self._settings.epochs) + ("  best" if better else ""))


def epoch_line(row: Mapping[str, float], epochs: int) -> str:
    """Returns one line on an epoch."""
    labels = {
        "loss": "loss",
        "accuracy": "acc",
        "robust_accuracy": "robust_acc",
        "val_accuracy": "val_acc",
        "val_robust_accuracy": "val_robust_acc",
        "learning_rate": "lr",
    }
    numbers = " ".join(f"{labels[n]} {row[n]:.4g}" for n in labels if n in row)
    return f"epoch {row['epoch']}/{epochs}  {numbers}  {row['seconds']:.0f} s"


def save_network(
    model: AdvRushFitModel, settings: FitSettings, row: Mapping[str, float], path: Path
) -> None:
    """Saves the network, with averaged weights if there are any, and its provenance."""
    model.network.provenance = {
        "library": f"advrush_tf {__version__}",
        "settings": settings.to_dict(),
        **{name: value for name, value in row.items() if name != "seconds"},
    }
    with model.averaged():
        save_model(model.network, path)


def write_report(
    model: AdvRushFitModel,
    test: tf.data.Dataset,
    settings: FitSettings,
    record: FitRecord,
    workdir: Path,
    store: CheckpointStore,
    log: Callable[[str], None],
) -> dict[str, Any]:
    """Measures the best and the last weights on the test split and writes fit.json.

    Args:
        model: the fitted model, with the last weights.
        test: batches (x, y) of the test split.
        settings: settings of the fit.
        record: history of the fit.
        workdir: receives fit.json and model_last.keras.
        store: store of the checkpoints, for best weights whose file is damaged; the
            model then may have these in the end.
        log: receives the lines for the user.

    Returns:
        The content of fit.json.

    Raises:
        UserError: the file of the best weights is damaged, and no checkpoint has them.
    """
    started = time.perf_counter()
    last = record.history[-1]
    save_network(model, settings, last, workdir / LAST)
    best = _best_network(model, settings, record.best, workdir / BEST, store, log)
    results = {"best": _measure(best, test, settings)}
    results["last"] = results["best"]
    if record.best["epoch"] != last["epoch"]:
        results["last"] = _measure(load_classifier(workdir / LAST), test, settings)
    report = {
        "library": f"advrush_tf {__version__}",
        "settings": settings.to_dict(),
        "network": model.network.get_config(),
        "parameters": count_parameters(model.network.trainable_variables),
        "history": record.history,
        "best": record.best,
        "test": {
            "images": sum(len(labels) for _, labels in test),
            "attack": settings.evaluation_attack.get_config(),
            **results,
        },
        "seconds": record.seconds + time.perf_counter() - started,
    }
    report = json_copy(report)
    write_json(workdir / REPORT, report)
    print_summary(report, workdir, log)
    return report


def draw_record(report: Mapping[str, Any], workdir: Path) -> None:
    """Draws the curves of a finished fit, unless they are there.

    Args:
        report: what fit.json holds.
        workdir: folder of the fit.
    """
    path = workdir / CURVES
    if not path.exists():
        draw_curves(report["history"], int(report["best"]["epoch"]), path)


def _best_network(
    model: AdvRushFitModel,
    settings: FitSettings,
    row: Mapping[str, float],
    path: Path,
    store: CheckpointStore,
    log: Callable[[str], None],
) -> keras.Model:
    """Returns the network of the best weights, whose file is made again if need be."""
    try:
        return load_classifier(path)
    except UserError as error:
        epoch = int(row["epoch"])
        if not store.path(epoch).exists():
            raise UserError(
                f"{error} No checkpoint has the weights of epoch {epoch} any more; fit "
                "again in another --workdir."
            ) from None
        log(f"warning: {error} The file is made again from {store.path(epoch)}.")
    store.load(model, epoch)
    save_network(model, settings, row, path)
    return load_classifier(path)


def _measure(
    network: keras.Model, test: tf.data.Dataset, settings: FitSettings
) -> dict[str, float]:
    """Returns the accuracies of a network."""
    model = AdvRushFitModel(
        network,
        settings.make_objective(),
        evaluation_attack=settings.evaluation_attack,
    )
    model.compile(jit_compile=settings.jit_compile)
    with ProgressBar(0, int(test.cardinality())) as bar:
        return model.evaluate(test, verbose=0, return_dict=True, callbacks=[bar])


def measured(report: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Returns the epoch and the test accuracies of each file of weights.

    Args:
        report: what fit.json holds.

    Returns:
        (row of the history, accuracies) of the best weights and, unless they are the
        same, of the last, by the file's name.
    """
    best, last = report["best"], report["history"][-1]
    found = {BEST: (best, report["test"]["best"])}
    if last["epoch"] != best["epoch"]:
        found[LAST] = (last, report["test"]["last"])
    return found


def accuracies(report: Mapping[str, Any]) -> Table:
    """Returns the accuracies on the test split, as a table.

    Args:
        report: what fit.json holds.
    """
    test, epsilon = report["test"], report["test"]["attack"]["epsilon"]
    rows = [
        (
            name,
            str(row["epoch"]),
            accuracy_text(result["accuracy"], test["images"]),
            accuracy_text(result["robust_accuracy"], test["images"]),
        )
        for name, (row, result) in measured(report).items()
    ]
    return Table(
        f"On {test['images']} test images, PGD-{test['attack']['steps']} with epsilon "
        f"{epsilon:.4g} ({255 * epsilon:.2f}/255), with 95 % intervals",
        ("weights", "epoch", "clean accuracy", "robust accuracy"),
        rows,
    )


def print_summary(
    report: Mapping[str, Any], workdir: Path, log: Callable[[str], None]
) -> None:
    """Prints the accuracies of a fit and the paths of its files."""
    log(f"\n{accuracies(report).markdown()}\n")
    log(f"Best weights {workdir / BEST}")
    log(f"Last weights {workdir / LAST}")
    log(f"Report       {workdir / REPORT}")
    log(f"Curves       {workdir / CURVES}")
    log(f"Checkpoints  {workdir / 'checkpoints'}")
    log(f"\nNext: tensorboard --logdir {workdir / 'tensorboard'}")
