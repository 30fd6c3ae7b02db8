"""A whole study: searches, fits and attacks of several entries with several seeds."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import keras
import numpy as np
import tensorflow as tf

from advrush_tf.data.dataset import ImageDataset, load_dataset
from advrush_tf.errors import AnotherRunError, UserError
from advrush_tf.files import write_json
from advrush_tf.genotypes.genotype import Genotype, random_genotype
from advrush_tf.runs import evaluation_report, fit_record, inspection
from advrush_tf.runs.attack import run_attack
from advrush_tf.runs.command import record_command
from advrush_tf.runs.fit import FitData, build_network, run_fit
from advrush_tf.runs.landscape import check_top, run_landscape
from advrush_tf.runs.processes import working_processes
from advrush_tf.runs.profiling import count_parameters, multiply_adds
from advrush_tf.runs.progress import print_line
from advrush_tf.runs.run import Log, Run
from advrush_tf.runs.search import build_model, make_pairs, run_search
from advrush_tf.runs.study_progress import Progress, Stage, read_report
from advrush_tf.runs.study_report import print_summary, write_results
from advrush_tf.runs.study_results import GENOTYPE, NETWORK, SELECTED, Row
from advrush_tf.runs.study_settings import (
    Drawn,
    Match,
    StudySettings,
    flags_of,
    folder_name,
)

_TOLERANCE = 0.05
# Channels of three networks, between which sizes are interpolated.
_SAMPLED = (2, 4, 6)
_COUNTS: dict[Match, Callable[[keras.Model], int]] = {
    Match.PARAMETERS: lambda network: count_parameters(network.trainable_variables),
    Match.MULTIPLY_ADDS: multiply_adds,
}


def run_study(
    settings: StudySettings,
    workdir: str | Path,
    data_dir: str | None = None,
    log: Log = print_line,
    processes: int = 1,
) -> dict[str, Any]:
    """Runs a study, or what is left of the one that `workdir` holds.

    Args:
        settings: of the study; entries, seeds and objectives may be added later.
        workdir: folder that receives settings.json, stages.json, study.json, study.md,
            a figure, tensorboard/ and, below `<entry>/seed_<n>/`, each stage's run.
        data_dir: tfds' folder of prepared data sets.
        log: receives the lines for the user.
        processes: how many stages run at a time, each in a process of its own, see
            `take_share`; what these print is then in the stages' log.txt. One runs
            here. Results differ by rounding, as with any number of threads.

    Returns:
        The content of study.json.

    Raises:
        UserError: the input is at fault, or a process was killed; one clear line.
    """
    _expect_many_functions()
    if processes > 1:
        _leave_gpus()
    with Run(settings, workdir, log=log, data_dir=data_dir) as run:
        dataset = run.load_dataset(settings.dataset, settings.image_size)
        check_study(settings, dataset)
        check_entries(settings, run.workdir)
        run.open(dataset)
        # With the entries and seeds that there are from now on.
        record_command(run.workdir)
        plan = Plan(settings, run.workdir, data_dir, dataset)
        with _pool(processes) as pool:
            progress = Progress(plan.stages, run, pool, processes)
            progress.announce()
            progress.finish(plan.known_sizes)
            for seed in range(settings.seeds):
                progress.finish(plan.of_seed(seed), plan.stages)
                results = write_results(
                    settings, plan.rows, progress.failures, run.workdir
                )
        print_summary(results, run.workdir, run.log)
        run.print_next()
        return results


def _pool(processes: int) -> contextlib.AbstractContextManager[Any]:
    if processes == 1:
        return contextlib.nullcontext()
    return working_processes(processes, take_share, processes)


def take_share(number: int, processes: int) -> None:
    """Gives a new process its share of the cores, and one of the GPUs.

    Where TensorFlow's TF_NUM_INTRAOP_THREADS is set, it counts.

    Args:
        number: of this process, from 0 on.
        processes: how many there are; each runs a stage at a time.
    """
    _expect_many_functions()
    if "TF_NUM_INTRAOP_THREADS" not in os.environ:
        threads = max((os.cpu_count() or 1) // processes, 1)
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    if gpus := tf.config.list_physical_devices("GPU"):
        gpu = gpus[number % len(gpus)]
        tf.config.set_visible_devices(gpu, "GPU")
        # Or the first process would take all of its memory.
        tf.config.experimental.set_memory_growth(gpu, True)


def _leave_gpus() -> None:
    """Leaves the GPUs to the processes that run stages, as far as it still can."""
    # TensorFlow may have taken them before, in a notebook.
    with contextlib.suppress(RuntimeError):
        tf.config.set_visible_devices([], "GPU")


def _expect_many_functions() -> None:
    # Each stage traces new ones, of which TensorFlow would warn.
    tf.get_logger().setLevel("ERROR")


def check_study(settings: StudySettings, dataset: ImageDataset) -> None:
    """Checks that the data set can carry all searches and fits.

    Raises:
        UserError: it cannot.
    """
    searched = [e for e in (Drawn.ADVRUSH, Drawn.DARTS) if e in settings.entries]
    # Both have the same model.
    for entry in searched[:1]:
        search = settings.search_settings(entry, 0)
        build_model(search, dataset)
        make_pairs(search, dataset)
    with flags_of("landscape"):
        check_top(settings.landscape_settings("model.keras", 0), dataset)
    genotypes = [settings.genotype(entry) for entry in settings.fixed]
    for objective in settings.objectives:
        fit = settings.fit_settings(objective, "ADVRUSH", 0)
        fit = fit.for_images(dataset.image_shape)
        for genotype in genotypes or [random_genotype(0)]:
            build_network(fit, dataset, genotype)
        FitData(fit, dataset)


def check_entries(settings: StudySettings, workdir: Path) -> None:
    """Checks that what entries name is what the seeds that are there were made of.

    Raises:
        UserError: a file has another genotype by now, or another file's name is as an
            entry's that was there.
    """
    for entry in settings.fixed:
        for path in workdir.glob(f"{folder_name(entry)}/seed_*/network/{GENOTYPE}"):
            if settings.genotype(str(path)) != settings.genotype(entry):
                raise UserError(
                    f"--entries: {entry} is not the genotype of {path}, with which its "
                    "seeds were made. Give the one that it was, or another --workdir."
                )


class Plan:
    """The stages of a study.

    Args:
        settings: of the study.
        workdir: its folder.
        data_dir: tfds' folder of prepared data sets.
        dataset: of all stages, to build networks for; None loads it when it is needed.
    """

    def __init__(
        self,
        settings: StudySettings,
        workdir: Path,
        data_dir: str | None,
        dataset: ImageDataset | None = None,
    ):
        self._settings, self._workdir = settings, workdir
        self._data_dir, self._dataset = data_dir, dataset

    def __getstate__(self) -> dict[str, Any]:
        # Stages go to other processes, which load the images themselves.
        return {**vars(self), "_dataset": None}

    @property
    def stages(self) -> list[Stage]:
        """All stages, seed by seed."""
        return [s for n in range(self._settings.seeds) for s in self.of_seed(n)]

    def of_seed(self, seed: int) -> list[Stage]:
        """The stages of a seed, entry by entry."""
        return [s for e in self._settings.entries for s in self._of_one(e, seed)]

    @property
    def known_sizes(self) -> list[Stage]:
        """The stages up to the networks of the first entry and of cells known already.

        A cell of which no number of channels matches is named before any fit.
        """
        settings = self._settings
        if not settings.match:
            return []
        known = [*settings.fixed, *([Drawn.RANDOM] if settings.select == 1 else [])]
        seeds = range(settings.seeds)
        networks = [(e, seed) for seed in seeds for e in settings.entries if e in known]
        networks.insert(0, (settings.entries[0], 0))
        return [stage for network in networks for stage in self._to_network(*network)]

    @property
    def rows(self) -> list[Row]:
        """Of each entry, seed and objective the folders of its results."""
        return [
            Row(entry, seed, objective, self._workdir / _base(entry, seed))
            for objective in self._settings.objectives
            for entry in self._settings.entries
            for seed in range(self._settings.seeds)
        ]

    def _of_one(self, entry: str, seed: int) -> Iterator[Stage]:
        yield from self._to_network(entry, seed)
        yield from self._from_network(entry, seed)

    def _to_network(self, entry: str, seed: int) -> Iterator[Stage]:
        settings, base = self._settings, _base(entry, seed)
        select = settings.select if entry in list(Drawn) else 0
        candidates: list[str] = []
        for number in range(select):
            search = f"{base}/search_{number}"
            draw = partial(self._search, entry, seed * select + number)
            yield Stage(search, f"search {entry}", GENOTYPE, (), draw)
            if select > 1:
                short = f"{base}/short_{number}"
                fit = partial(self._short_fit, f"{search}/{GENOTYPE}", seed)
                yield Stage(short, "short fit", fit_record.REPORT, (search,), fit)
                candidates += [search, short]
        network = f"{base}/network"
        first = f"{_base(settings.entries[0], 0)}/network"
        needs = {f"{base}/search_0"} if select == 1 else set()
        needs |= {first} - {network} if settings.match else set()
        choose = partial(self._choose, entry, seed)
        yield Stage(network, "network", NETWORK, sorted(needs), choose, candidates)

    def _from_network(self, entry: str, seed: int) -> Iterator[Stage]:
        base = _base(entry, seed)
        network = f"{base}/network"
        for objective in self._settings.objectives:
            fit_name = f"{base}/fit_{objective}"
            model = self._workdir / fit_name / fit_record.BEST
            for name, report, needed, function in (
                ("fit", fit_record.REPORT, network, partial(self._fit, objective)),
                ("attack", evaluation_report.TABLE, fit_name, self._attack),
                ("landscape", inspection.TABLE, fit_name, self._landscape),
            ):
                source = self._workdir / network if name == "fit" else model
                yield Stage(
                    f"{base}/{name}_{objective}",
                    f"{name} {objective}",
                    report,
                    (needed,),
                    partial(function, source, seed),
                )

    def _search(self, entry: str, seed: int, folder: Path, log: Log) -> None:
        settings = self._settings.search_settings(entry, seed)
        if entry != Drawn.RANDOM:
            run_search(settings, folder, self._data_dir, log=log)
            return
        folder.mkdir(parents=True, exist_ok=True)
        drawn = random_genotype(seed, settings.num_nodes, settings.primitives)
        drawn.save(folder / GENOTYPE)

    def _short_fit(self, genotype: str, seed: int, folder: Path, log: Log) -> None:
        settings = self._settings.fit_settings(
            self._settings.selected_by,
            str(self._workdir / genotype),
            seed,
            epochs=self._settings.select_epochs,
        )
        _run_of(run_fit, settings, folder, self._data_dir, log)

    def _choose(self, entry: str, seed: int, folder: Path, log: Log) -> None:
        """Writes the genotype that is fitted, its channels and its size."""
        selected = self._selected(entry, seed)
        genotype = self._candidate(entry, seed, selected)
        first = self._workdir / _base(self._settings.entries[0], 0) / "network"
        channels = self._given.init_channels
        if self._settings.match and folder != first:
            wanted = read_network(first)[self._settings.match]
            channels = self._matching(genotype, self._settings.match, wanted)
        folder.mkdir(parents=True, exist_ok=True)
        genotype.save(folder / GENOTYPE)
        network = self._network(genotype, channels)
        sizes = {str(name): count(network) for name, count in _COUNTS.items()}
        found = {"init_channels": channels, **sizes}
        if self._settings.select > 1 and selected is not None:
            found[SELECTED] = selected
        write_json(folder / NETWORK, found)

    def _selected(self, entry: str, seed: int) -> int | None:
        """The number of the candidate that is kept; None for a fixed entry."""
        if entry not in list(Drawn):
            return None
        if self._settings.select == 1:
            return 0
        folder = self._workdir / _base(entry, seed)
        reports = sorted(folder.glob(f"short_*/{fit_record.REPORT}"))
        if not reports:
            raise UserError(f"No short fit in {folder} has come to its end.")
        accuracies = {
            int(path.parent.name.removeprefix("short_")): read_report(path)["best"]
            for path in reports
        }
        names = ("val_robust_accuracy", "val_accuracy")
        return max(
            sorted(accuracies),
            key=lambda n: [accuracies[n][name] for name in names],
        )

    def _candidate(self, entry: str, seed: int, number: int | None) -> Genotype:
        if number is None:
            return self._settings.genotype(entry)
        folder = self._workdir / _base(entry, seed) / f"search_{number}"
        return self._settings.genotype(str(folder / GENOTYPE))

    @property
    def _given(self) -> Any:
        objective = self._settings.objectives[0]
        return self._settings.fit_settings(objective, "ADVRUSH", 0)

    def _matching(self, genotype: Genotype, match: Match, wanted: int) -> int:
        return matching_channels(
            lambda channels: _COUNTS[match](self._network(genotype, channels)),
            wanted,
            match,
        )

    def _network(self, genotype: Genotype, channels: int) -> keras.Model:
        # An auxiliary head is left out after the fit.
        settings = attrs.evolve(
            self._given, init_channels=channels, auxiliary_weight=0.0
        )
        if self._dataset is None:
            self._dataset = load_dataset(
                settings.dataset, self._data_dir, settings.image_size
            )
        return build_network(settings, self._dataset, genotype)

    def _fit(
        self, objective: str, network: Path, seed: int, folder: Path, log: Log
    ) -> None:
        channels = read_network(network)["init_channels"]
        settings = self._settings.fit_settings(
            objective, str(network / GENOTYPE), seed, init_channels=channels
        )
        _run_of(run_fit, settings, folder, self._data_dir, log)

    def _attack(self, model: Path, seed: int, folder: Path, log: Log) -> None:
        settings = self._settings.attack_settings(str(model), seed)
        _run_of(run_attack, settings, folder, self._data_dir, log)

    def _landscape(self, model: Path, seed: int, folder: Path, log: Log) -> None:
        settings = self._settings.landscape_settings(str(model), seed)
        _run_of(run_landscape, settings, folder, self._data_dir, log)


def _run_of(
    run: Callable[..., Any], settings: Any, folder: Path, data_dir: str | None, log: Log
) -> None:
    """Runs a stage, in place of what was made of a cell or weights that are gone."""
    try:
        run(settings, folder, data_dir=data_dir, log=log)
    except AnotherRunError as error:
        shutil.rmtree(folder)
        log(f"What was here is made anew: {error}")
        run(settings, folder, data_dir=data_dir, log=log)


def _base(entry: str, seed: int) -> str:
    return f"{folder_name(entry)}/seed_{seed}"


def read_network(folder: Path) -> Any:
    """Returns the channels and the sizes of a network that is fitted."""
    return read_report(folder / NETWORK)


def matching_channels(
    size: Callable[[int], int], wanted: int, words: str = Match.PARAMETERS
) -> int:
    """Returns the channels of the network whose size is nearest to the wanted one.

    Args:
        size: of the network with so many channels, of which it is a polynomial of the
            second degree.
        wanted: the size.
        words: what the size is.

    Raises:
        UserError: no network is within 5 % of it.
    """
    *higher, constant = np.polyfit(_SAMPLED, [size(n) for n in _SAMPLED], 2)
    root = max(np.roots([*higher, constant - wanted]).real)
    near = [max(int(root) + more, 1) for more in (0, 1)]
    found = {channels: size(channels) / wanted - 1 for channels in near}
    best = min(near, key=lambda channels: abs(found[channels]))
    if abs(found[best]) > _TOLERANCE:
        raise UserError(
            f"No number of channels gives {wanted:,} {words} to within 5 %: {best} are "
            f"nearest, with {found[best]:+.1%}. Give more --fit_init_channels in "
            "a new --workdir, or leave the entry out."
        )
    return best
