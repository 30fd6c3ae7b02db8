"""A whole inspection: from models to curvature, surfaces and a report, resumable."""

import dataclasses
import itertools
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import keras
from tqdm import tqdm

from advrush_tf.attacks.base import BatchedClassifier, check_answers
from advrush_tf.attacks.losses import is_wrong
from advrush_tf.attacks.sanity_checks import Finding, missing_classes, probabilities
from advrush_tf.data.dataset import ImageDataset
from advrush_tf.errors import UserError, one_line
from advrush_tf.files import json_copy, read_json, sha256, write_json
from advrush_tf.genotypes.genotype import Genotype, get_genotype
from advrush_tf.inputs import check_logits
from advrush_tf.landscape.architectures import ArchitectureSampler, SampledGenotype
from advrush_tf.landscape.meter import Curvature, measure_curvature
from advrush_tf.landscape.surfaces import Cut, Surface, loss_cut, loss_surface
from advrush_tf.landscape.weight_sharing import train_paths
from advrush_tf.runs.checkpoints import CheckpointStore
from advrush_tf.runs.inspection import (
    RESULTS,
    TABLE,
    ModelCurvature,
    print_summary,
    write_results,
)
from advrush_tf.runs.landscape_settings import LandscapeSettings
from advrush_tf.runs.lock import locked
from advrush_tf.runs.models import (
    load_classifier,
    load_supernet,
    open_classifier,
    short_names,
)
from advrush_tf.runs.progress import print_line, progress_bar
from advrush_tf.runs.report import check_workdir, write_html
from advrush_tf.runs.run import Log, Run, explained_writes
from advrush_tf.runs.search import draw_search
from advrush_tf.search.history import is_search
from advrush_tf.search.model import AdvRushSearchModel

_MEASURED, _SAMPLED, _PATHS = "measured", "sampled.json", "paths"


def run_landscape(
    settings: LandscapeSettings | None,
    workdir: Path,
    runs: Sequence[Path] = (),
    report: Path | None = None,
    data_dir: str | None = None,
    log: Log = print_line,
) -> dict[str, Any] | None:
    """Inspects models, or goes on with what `workdir` holds, and writes a report.

    Args:
        settings: of the inspection; None to inspect no model.
        workdir: folder that receives settings.json, inspection.json, inspection.md,
            figures, tensorboard/ and measured/, from which an interrupted inspection
            goes on.
        runs: workdirs for the report; of searches the history is drawn as well.
        report: an HTML file to write.
        data_dir: tfds' folder of prepared data sets.
        log: receives the lines for the user.

    Returns:
        The content of inspection.json, None if no model was inspected.

    Raises:
        UserError: the input is at fault; one clear line.
    """
    results = None
    runs = _once(runs)
    _check(runs, report)
    if settings is None and report is None and not any(map(is_search, runs)):
        raise UserError(
            "There is nothing to draw: --run names no search. Give --report=FILE.html."
        )
    if settings is not None:
        with Run(settings, workdir, log=log, data_dir=data_dir) as run:
            results = _inspect(run)
            run.print_next()
    searches = list(filter(is_search, runs))
    if searches:
        with explained_writes(workdir), locked(workdir, log):
            for name, search in zip(_distinct_names(searches), searches, strict=True):
                draw_search(search, name, workdir, log)
    if report is not None:
        _write_report([*runs, *([workdir] if settings else [])], report, log)
    return results


def _check(runs: Sequence[Path], report: Path | None) -> None:
    """Raises UserError, before any work, where runs or report cannot be used."""
    for run in runs:
        check_workdir(run)
    # Path.is_dir would raise where a folder cannot be read.
    if report is not None and (os.path.isdir(report) or not report.name):
        raise UserError(
            f"--report is {report}, a folder; it must be a file such as report.html."
        )


def _once(folders: Iterable[Path]) -> list[Path]:
    """The folders, each but once, however it is spelt."""
    found: dict[Path, Path] = {}
    for folder in folders:
        found.setdefault(folder.resolve(), folder)
    return list(found.values())


def _distinct_names(folders: Sequence[Path]) -> list[str]:
    """The folders' names; where one is taken, a number is added."""
    names: list[str] = []
    for folder in folders:
        name = folder.resolve().name
        numbered = (f"{name}_{number}" for number in itertools.count(2))
        free = (n for n in itertools.chain([name], numbered) if n not in names)
        names.append(next(free))
    return names


def _write_report(workdirs: Sequence[Path], report: Path, log: Log) -> None:
    try:
        write_html(_once(workdirs), report)
    except OSError as error:
        raise UserError(
            f"Writing the report {report} failed: {error.strerror or error}. Give "
            "--report a file in a folder that can be written; the rest is done."
        ) from None
    log(f"Report       {report}")


def check_top(settings: LandscapeSettings, dataset: ImageDataset) -> int:
    """Returns how many eigenvalues images have; it must be enough for `top`.

    Raises:
        UserError: it is not.
    """
    values = math.prod(dataset.image_shape)
    settings.require(
        "top", settings.top <= values, f"{values} or less, an image's size"
    )
    return values


def _inspect(run: Run[LandscapeSettings]) -> dict[str, Any]:
    settings = run.settings
    test_only = not settings.sample_genotypes
    dataset = run.load_dataset(settings.dataset, settings.image_size, test_only)
    paths = [Path(path) for path in settings.model]
    opened = [_open(path, dataset, run) for path in paths]
    classifiers, checksums = zip(*opened, strict=True)
    searches = [path for path in paths if path.is_dir()]
    if settings.sample_genotypes and len(searches) != 1:
        raise UserError(
            "--sample_genotypes samples from one supernet: give one --model that is a "
            f"search's workdir; there are {len(searches)}."
        )
    values = check_top(settings, dataset)
    run.settings = settings = attrs.evolve(settings, sha256=checksums)
    run.open(dataset)
    run.print_outline("inspection", dataset, [each.model for each in classifiers])
    results = run.finished(RESULTS, print_summary, "inspection", TABLE)
    if results is not None:
        return results
    inspection = _Inspection(run, dataset)
    names = short_names(settings.model)
    models = {
        name: inspection.measure(number, name, classifier)
        for number, (name, classifier) in enumerate(
            zip(names, classifiers, strict=True)
        )
    }
    samples: list[SampledGenotype] = []
    found = None
    if settings.sample_genotypes:
        supernet = classifiers[paths.index(searches[0])].model
        samples, found = inspection.sample(supernet, searches[0])
    noted = {"split": dataset.test_split, "warnings": inspection.warnings}
    return write_results(
        settings, models, values, samples, found, noted, run.workdir, run.log
    )


def _open(
    path: Path, dataset: ImageDataset, run: Run[LandscapeSettings]
) -> tuple[BatchedClassifier, str]:
    """A model or a search's supernet, and the SHA-256 of the file it was read from."""
    model: keras.Model
    if path.is_dir():
        model, checksum = load_supernet(path, run.data_dir, run.log)
    else:
        model, checksum = load_classifier(path), sha256(path)
    return open_classifier(model, path, dataset, run.settings.batch_size), checksum


class _Inspection:
    """Measures models and genotypes, and keeps what is measured in a folder.

    Attributes:
        warnings: reasons not to trust it, a row each as inspection.json has them.
    """

    def __init__(self, run: Run[LandscapeSettings], dataset: ImageDataset):
        self._dataset, self._log = dataset, run.log
        self._settings = settings = run.settings
        self._folder = run.workdir / _MEASURED
        self._folder.mkdir(exist_ok=True)
        self._x, self._y = dataset.test.drawn(
            settings.test_images, settings.seed
        ).unit_arrays()
        missing = missing_classes(self._y, dataset.class_names, "test images")
        self.warnings: list[dict[str, Any]] = []
        if missing:
            self._warn(missing)

    def _warn(self, finding: Finding, model: str | None = None) -> None:
        self.warnings.append({"model": model, **dataclasses.asdict(finding)})
        self._log(f"warning: {finding.sentence}")

    def measure(
        self, number: int, name: str, classifier: BatchedClassifier
    ) -> ModelCurvature:
        """Measures a model, or reads what was measured of it before."""
        # An inspection that goes on must tell of it, too.
        x, y = self._x, self._y
        logits = classifier.predict(x)
        for finding in (probabilities(logits), *check_answers(classifier, x, y)):
            if finding:
                self._warn(finding, name)
        path = self._folder / f"model_{number}.npz"
        of = self._settings.decisive() | {"model": self._settings.sha256[number]}
        if path.exists():
            try:
                return ModelCurvature.load(path, of)
            except ValueError as error:
                self._log(f"{error}; measuring {name} again.")
        try:
            check_logits(logits)
            self._log(f"{name} on {len(x)} test images ...")
            right = ~is_wrong(logits, y).numpy()
            inspected = ModelCurvature(right, *self._measure(classifier.model))
        except ValueError as error:
            raise UserError(f"{name} cannot be inspected: {error}.") from None
        inspected.save(path, of)
        return inspected

    def _measure(self, model: keras.Model) -> tuple[Curvature, Surface, Cut]:
        settings, x, y = self._settings, self._x, self._y
        size, seed = settings.batch_size, settings.seed
        with self._bar("curvature") as bar:
            curvature = measure_curvature(
                model,
                x,
                y,
                bar.update,
                batch_size=size,
                probe_length=settings.probe_length,
                top=settings.top,
                lanczos_steps=settings.lanczos_steps,
                probes=settings.probes,
                seed=seed,
            )
        radius, points = 2 * settings.epsilon, settings.surface_points
        with self._bar("surface") as bar:
            surface = loss_surface(model, x, y, radius, points, size, seed, bar.update)
        radius, points = settings.epsilon, settings.cut_points
        with self._bar("cut") as bar:
            cut = loss_cut(model, x, y, radius, points, size, seed, bar.update)
        return curvature, surface, cut

    def _bar(self, description: str) -> tqdm:
        return progress_bar(len(self._x), description, "image")

    def sample(
        self, supernet: AdvRushSearchModel, search: Path
    ) -> tuple[list[SampledGenotype], SampledGenotype | None]:
        """Measures genotypes with a supernet's weights, but for those known already.

        Args:
            supernet: whose weights all of them share.
            search: its workdir.

        Returns:
            The random ones, and the search's own if it has ended with one.
        """
        count = self._settings.sample_genotypes
        found = _own_genotype(search)  # Damage is noticed before the work.
        if self._settings.path_epochs:
            self._train_paths(supernet)
        self._log(f"{count} random genotypes with the weights of {search} ...")
        sampler = self._sampler(supernet)
        path = self._folder / _SAMPLED
        samples = self._known(path)
        with progress_bar(count, "genotypes", "genotype") as bar:
            bar.update(len(samples))
            for sample in sampler.draw(count, list(samples)):
                samples.append(sample)
                rows = [known.to_dict() for known in samples]
                of = self._settings.decisive()
                write_json(path, {"of": of, "genotypes": rows})
                bar.update()
        return samples, sampler.measure(found) if found else None

    def _train_paths(self, supernet: AdvRushSearchModel) -> None:
        epochs = self._settings.path_epochs
        store = CheckpointStore(self._folder / _PATHS, settings=self._settings)
        trained = SimpleNamespace(
            checkpoint_groups={"weights": supernet.supernet.weights}
        )
        if store.restore(trained, lambda damage: None)[0] == epochs:
            return
        self._log(f"{epochs} epochs of single architectures with shared weights ...")
        with progress_bar(epochs, "single architectures", "epoch") as bar:
            train_paths(
                supernet,
                self._dataset,
                epochs,
                seed=self._settings.seed,
                progress=bar.update,
            )
        store.save(trained, epochs)

    def _sampler(self, supernet: AdvRushSearchModel) -> ArchitectureSampler:
        settings = self._settings
        return ArchitectureSampler(
            supernet,
            self._dataset,
            settings.epsilon,
            settings.sample_images,
            settings.sample_curvature_images,
            settings.probe_length,
            batch_size=settings.batch_size,
            seed=settings.seed,
        )

    def _known(self, path: Path) -> list[SampledGenotype]:
        if not path.exists():
            return []
        try:
            known = read_json(path)
            if known["of"] != json_copy(self._settings.decisive()):
                raise ValueError("it is of another inspection")
            rows = known["genotypes"]
            return [SampledGenotype.from_dict(row) for row in rows]
        except (ValueError, LookupError, TypeError) as error:
            raise UserError(
                f"{path} is damaged ({error}). Delete it to sample anew."
            ) from None


def _own_genotype(search: Path) -> Genotype | None:
    """The genotype that a search ended with, None if it has not ended."""
    path = search / "genotype.json"
    try:
        return get_genotype(path) if path.exists() else None
    except ValueError as error:
        raise UserError(f"{one_line(error)}. Let the search write it again.") from None
