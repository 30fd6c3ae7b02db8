"""The record of a fit: its history, its best weights, its report."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from advrush_tf.attacks.base import BatchedClassifier, check_answers
from advrush_tf.errors import NonFiniteLossError, UserError
from advrush_tf.figures.fit import draw_curves
from advrush_tf.files import json_copy, sha256, write_json
from advrush_tf.fit.model import AdvRushFitModel
from advrush_tf.nn.checks import check_finite
from advrush_tf.nn.classifier import ImageClassifier
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
        best_sha256: SHA-256 of their file; empty in records of earlier versions.
        seconds: wall time of the finished epochs.
    """

    history: list[dict[str, float]] = dataclasses.field(default_factory=list)
    best: dict[str, float] = dataclasses.field(default_factory=dict)
    best_sha256: str = ""
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
        check_finite(self.model.variables, epoch + 1)
        better = self._record.add(row, self._settings.select_by)
        # Before the checkpoint: an epoch that is repeated writes the same file again.
        if better:
            path = self._workdir / BEST
            save_network(self.model, self._settings, row, path)
            self._record.best_sha256 = sha256(path)
        self._store.save(self.model, epoch + 1, dataclasses.asdict(self._record))
        self._log(epoch_line(row, self._settings.epochs) + ("  best" if better else ""))


def epoch_line(row: Mapping[str, float], epochs: int) -> str:
    """Returns one line on an epoch."""
    labels = {
        "loss": "loss",
        "accuracy": "acc",
        "robust_accuracy": "robust",
        "val_accuracy": "val",
        "val_robust_accuracy": "val_robust",
    }
    numbers = " ".join(f"{labels[n]} {row[n]:.3g}" for n in labels if n in row)
    return (
        f"epoch {row['epoch']}/{epochs}  {numbers} lr {row['learning_rate']:.2g}  "
        f"{row['seconds']:.0f} s"
    )


def save_network(
    model: AdvRushFitModel, settings: FitSettings, row: Mapping[str, float], path: Path
) -> None:
    """Saves the network, with averaged weights if there are any, and its provenance."""
    # Other classifiers, see `FitSettings.model`, have no place for it.
    if isinstance(model.network, ImageClassifier):
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
    few: tuple[np.ndarray, np.ndarray],
    split: str,
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
        few: some of its images, float32 in [0, 1], and their labels, for a look at the
            best weights' answers, see `check_answers`.
        split: its name.
        settings: settings of the fit.
        record: history of the fit.
        workdir: receives fit.json and model_last.keras.
        store: store of the checkpoints, for best weights whose file is damaged or
            gone; the model then has these in the end.
        log: receives the lines for the user.

    Returns:
        The content of fit.json.

    Raises:
        UserError: the file of the best weights is damaged or gone, and no checkpoint
            has them.
    """
    started = time.perf_counter()
    last = record.history[-1]
    save_network(model, settings, last, workdir / LAST)
    best = best_network(model, settings, record, workdir / BEST, store, log)
    classifier = BatchedClassifier(best, few[0].shape[1:], len(few[0]))
    findings = check_answers(classifier, *few)
    evaluated = _evaluated(best, settings)
    results = {"best": _measure(evaluated, test)}
    results["last"] = results["best"]
    if record.best["epoch"] != last["epoch"]:
        # In the same network, whose evaluation is not traced again.
        best.set_weights(load_classifier(workdir / LAST).get_weights())
        results["last"] = _measure(evaluated, test)
    report = {
        "library": f"advrush_tf {__version__}",
        "settings": settings.to_dict(),
        "split": split,
        "network": _described(model.network),
        "parameters": count_parameters(model.network.trainable_variables),
        "history": record.history,
        "best": record.best,
        "test": {
            "images": sum(len(labels) for _, labels in test),
            "attack": settings.evaluation_attack.get_config(),
            **results,
        },
        "warnings": [dataclasses.asdict(finding) for finding in findings],
        "seconds": record.seconds + time.perf_counter() - started,
        "sha256": {name: sha256(workdir / name) for name in (BEST, LAST)},
    }
    report = json_copy(report)
    write_json(workdir / REPORT, report)
    print_summary(report, workdir, log)
    return report


def _described(network: keras.Model) -> dict[str, Any]:
    """Returns the arguments of a network of ours, and the name of another one."""
    if isinstance(network, ImageClassifier):
        return network.get_config()
    return {"name": network.name}


def draw_record(report: Mapping[str, Any], workdir: Path) -> None:
    """Draws the curves of a finished fit, unless they are there.

    Args:
        report: what fit.json holds.
        workdir: folder of the fit.
    """
    path = workdir / CURVES
    if not path.exists():
        draw_curves(report["history"], int(report["best"]["epoch"]), path)


def best_network(
    model: AdvRushFitModel,
    settings: FitSettings,
    record: FitRecord,
    path: Path,
    store: CheckpointStore,
    log: Callable[[str], None],
) -> keras.Model:
    """Returns the network of the best weights, whose file is made again if need be.

    Args:
        model: the fitted model; it has the best weights afterwards if the file is made
            again.
        settings: settings of the fit.
        record: history of the fit.
        path: the file.
        store: store of the checkpoints.
        log: receives a line if the file is made again.

    Raises:
        UserError: the file is damaged or gone, and no checkpoint has the weights.
    """
    if path.is_file() and record.best_sha256 in ("", sha256(path)):
        return load_classifier(path)
    epoch = int(record.best["epoch"])
    other = f"{path} is not the file of the best weights, those of epoch {epoch},"
    try:
        store.load(model, epoch)
    except (ValueError, LookupError):
        raise UserError(
            f"{other} and no checkpoint has them any more; copy the file there again, "
            "or fit again in another --workdir."
        ) from None
    log(f"warning: {other} and is made again from {store.path(epoch)}.")
    save_network(model, settings, record.best, path)
    return load_classifier(path)


def check_models(report: Mapping[str, Any], workdir: Path) -> None:
    """Checks that the models beside a report are those that it is about.

    Args:
        report: what fit.json holds; those of earlier versions name no checksums.
        workdir: its folder.

    Raises:
        UserError: a file of weights is gone, or another one.
    """
    for name, checksum in report.get("sha256", {}).items():
        path = workdir / name
        if not path.is_file() or sha256(path) != checksum:
            raise UserError(
                f"{path} is not the model that {REPORT} reports on. Copy it there "
                f"again, or delete {workdir / REPORT} and run the same command to make "
                "both again from the checkpoints."
            )


def print_existing(
    report: Mapping[str, Any], workdir: Path, log: Callable[[str], None]
) -> None:
    """Prints a finished fit as `print_summary` does, see `check_models`."""
    check_models(report, workdir)
    print_summary(report, workdir, log)


def _evaluated(network: keras.Model, settings: FitSettings) -> AdvRushFitModel:
    """Returns the model whose evaluation measures a network's accuracies."""
    model = AdvRushFitModel(
        network,
        settings.make_objective(),
        evaluation_attack=settings.evaluation_attack,
    )
    model.compile(jit_compile=settings.jit_compile)
    return model


def _measure(model: AdvRushFitModel, test: tf.data.Dataset) -> dict[str, float]:
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
    """Prints the accuracies of a fit, its warnings and the paths of its files."""
    log(f"\n{accuracies(report).markdown()}\n")
    # Older fits have none.
    for warning in report.get("warnings", ()):
        log(f"warning: {warning['sentence']}")
    log(f"Best weights {workdir / BEST}")
    log(f"Last weights {workdir / LAST}")
    log(f"Report       {workdir / REPORT}")
    log(f"Curves       {workdir / CURVES}")
    log(f"Checkpoints  {workdir / 'checkpoints'}")
