"""The frame of all runs: how they begin, resume, are found finished, and fail."""

import contextlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import keras

from advrush_tf.attacks.sanity_checks import missing_classes
from advrush_tf.data.dataset import ImageDataset, load_dataset
from advrush_tf.data.examples import Examples
from advrush_tf.errors import UserError
from advrush_tf.files import json_copy, read_json, write_json
from advrush_tf.runs.checkpoints import CheckpointStore
from advrush_tf.runs.command import launcher_command, tensorboard_command
from advrush_tf.runs.devices import Devices
from advrush_tf.runs.lock import locked
from advrush_tf.runs.profiling import count_parameters
from advrush_tf.runs.progress import print_existing_summary, print_line, write_failure
from advrush_tf.runs.settings import (
    Settings,
    differences,
    record_settings,
    unusable,
)

Log = Callable[[str], None]
_Settings = TypeVar("_Settings", bound=Settings)


class Run(Generic[_Settings]):
    """Settings, workdir, devices and log of a run; its work is in a `with` statement.

    Args:
        settings: of the run.
        workdir: folder of its results, on storage that all workers share.
        devices: on which it runs; one device if None.
        log: receives the lines for the user.
        data_dir: tfds' folder of prepared data sets.

    Attributes:
        settings: may be replaced until `open`, where they wait for the data.
        log: silent on all workers but the chief.
        store: the run's checkpoints.

    Raises:
        UserError: a file could not be written, within the `with` statement.
        WorkerLostError: another worker of the run is gone.
    """

    def __init__(
        self,
        settings: _Settings,
        workdir: str | Path,
        devices: Devices | None = None,
        log: Log = print_line,
        data_dir: str | None = None,
    ):
        self.settings, self.workdir, self.data_dir = settings, Path(workdir), data_dir
        self.devices = devices or Devices()
        self.log = self.devices.chief_log(log)
        self.store = CheckpointStore(self.workdir / "checkpoints")
        self._frame = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._frame.enter_context(self.devices.watched())
        return self

    def __exit__(self, *failure: Any) -> bool | None:
        return self._frame.__exit__(*failure)

    def load_dataset(
        self, name: str, image_size: int | None, test_only: bool = False
    ) -> ImageDataset:
        """Returns a data set, see `load_dataset`."""
        dataset = load_dataset(name, self.data_dir, image_size, test_only)
        if dataset.held_back:
            tested, trained = len(dataset.test), len(dataset.train)
            self.log(
                f"Data set {name} has no part named test: {tested} of its "
                f"{tested + trained} images, the same in every run, are held back from "
                "training to test with."
            )
        if dataset.train.ordered:
            self.log(
                f"warning: data set {name} is stored in some order, such as "
                "by class, and is too large to be shuffled as a whole: parts of it are "
                "drawn at random, but batches may hold few classes. Prepare it anew "
                "without disable_shuffling."
            )
        return dataset

    def name_missing_classes(
        self, dataset: ImageDataset, examples: Examples, images: str
    ) -> None:
        """Warns of classes without images, where the labels are known.

        Args:
            dataset: has the classes' names.
            examples: a part of it.
            images: what they are, in the plural.
        """
        if examples.labels is None:
            return
        names = dataset.class_names
        if finding := missing_classes(examples.labels, names, images):
            self.log(f"warning: {finding.sentence}")

    def agree(self, dataset: ImageDataset, **also: Any) -> None:
        """Checks that all workers run the same, on the same data, in the same workdir.

        The chief writes what it runs to a file; the others must find it and agree.

        Args:
            dataset: of the run.
            **also: what else must be the same, as JSON types.

        Raises:
            UserError: a worker has another workdir, other settings or other data.
        """
        if self.devices.worker[1] == 1:
            return
        mine = json_copy(self.settings.to_dict() | dataset.facts() | also)
        # Of this start alone: an earlier one may have left its file.
        number = self.devices.from_chief(lambda: secrets.randbits(62))
        path = self.workdir / f".start_{number:x}.json"
        self.devices.on_chief(lambda: _announce(mine, path))
        try:
            self.devices.together(lambda: self._compare(mine, path))
        finally:
            if self.devices.chief:
                path.unlink(missing_ok=True)

    def _compare(self, mine: dict[str, Any], path: Path) -> None:
        worker = f"Worker {self.devices.worker[0]}"
        if not path.exists():
            raise UserError(
                f"{worker} does not see what the chief writes to {self.workdir}. Give "
                "all workers the same --workdir, a folder on storage that they share."
            )
        if different := differences(read_json(path), mine):
            raise UserError(
                f"{worker} (here) has other settings than the chief (there): "
                f"{'; '.join(different)}. Start all workers with the same command."
            )

    def open(self, dataset: ImageDataset | None = None) -> None:
        """Takes the workdir, which from now on is that of these settings and images.

        To be called once all that may be wrong with the settings has been checked.

        Args:
            dataset: the run's, if it has one.

        Raises:
            UserError: the folder cannot be used, is in use, or holds a run of other
                settings or images.
        """
        self.store.settings = self.settings
        self.devices.on_chief(lambda: self._take(dataset))
        self._frame.enter_context(explained_writes(self.workdir))

    def print_outline(
        self, kind: str, dataset: ImageDataset, models: Sequence[keras.Model]
    ) -> None:
        """Prints in a line what is run, on what, where.

        Args:
            kind: what is run, in a word.
            dataset: of the run.
            models: of the run.
        """
        parameters = [count_parameters(model.trainable_variables) for model in models]
        self.log(
            f"{kind} on {dataset.name}, {sum(parameters):,} parameters, "
            f"{self.devices.description}, in {self.workdir}"
        )

    def print_next(self, launcher: str = "", **flags: Any) -> None:
        """Prints the commands to run next: TensorBoard, and a launcher on these data.

        Args:
            launcher: its name; empty for none.
            **flags: its flags but those of the data.
        """
        self.log(f"\nNext: {tensorboard_command(self.workdir / 'tensorboard')}")
        if launcher:
            settings = self.settings.to_dict()
            flags |= {name: settings[name] for name in ("dataset", "image_size")}
            flags["data_dir"] = self.data_dir
            self.log(f"      {launcher_command(launcher, **flags)}")

    def _take(self, dataset: ImageDataset | None) -> None:
        try:
            self._frame.enter_context(locked(self.workdir, self.log))
        except OSError as error:
            raise unusable(self.workdir, error) from None
        record_settings(self.settings, self.workdir)
        if dataset:
            with explained_writes(self.workdir):
                _record_images(dataset, self.workdir)

    def finished(
        self,
        report: str,
        print_summary: Callable[[dict[str, Any], Path, Log], None],
        kind: str,
        last: str | None = None,
    ) -> dict[str, Any] | None:
        """Returns the report of a finished run, once shown anew; None without one.

        Args:
            report: its name in the workdir.
            print_summary: see `print_existing_summary`.
            kind: what was run, in a word.
            last: name of the file that a run writes last; the report if None.

        Raises:
            UserError: the report is damaged, or of a run of other settings.
        """
        path, end = self.workdir / report, self.workdir / (last or report)
        # The chief's answer: shared storage may show others a new file later.
        if not self.devices.from_chief(lambda: path.exists() and end.exists()):
            return None
        return print_existing_summary(
            path, self.settings, print_summary, self.log, kind
        )

    def conclude(self, report: str, write: Callable[[], object]) -> dict[str, Any]:
        """Lets the chief write the report, and returns it.

        Args:
            report: its name in the workdir.
            write: writes it.
        """
        self.devices.on_chief(write)
        return read_json(self.workdir / report)

    def restore(self, model: Any, epochs: int) -> tuple[int, dict[str, Any]]:
        """Sets a model to the newest checkpoint, if there is one.

        Args:
            model: the compiled model.
            epochs: length of the run.

        Returns:
            The number of finished epochs, and the notes; see `CheckpointStore`.

        Raises:
            UserError: there are checkpoints, and none can be used.
        """
        epoch = self.devices.from_chief(lambda: self._newest(model))
        if not epoch:
            return 0, {}
        self.log(f"Resuming {self.workdir} after epoch {epoch} of {epochs}.")
        return epoch, self.store.load(model, epoch)

    def _newest(self, model: Any) -> int:
        epoch = self.store.find(model, self.log)
        if not epoch and self.store.newest():
            raise UserError(
                f"None of the checkpoints in {self.store.folder} can be used. Copy "
                "them there again to resume, or give another --workdir to start over."
            )
        return epoch


def _record_images(dataset: ImageDataset, workdir: Path) -> None:
    """Writes what the images are to dataset.json, or compares with what they were."""
    path, facts = workdir / "dataset.json", json_copy(dataset.facts())
    if not path.exists():
        write_json(path, facts)
    try:
        recorded = read_json(path)
        if not isinstance(recorded, dict):
            raise ValueError("it does not describe images")
        different = differences(recorded, facts)
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}). Copy it there again, or give another "
            "--workdir."
        ) from None
    if different:
        raise UserError(
            f"{workdir} holds a run on other images: {'; '.join(different)}. Give "
            "another --workdir, or the same images to resume."
        )


def _announce(values: dict[str, Any], path: Path) -> None:
    with explained_writes(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, values)


@contextlib.contextmanager
def explained_writes(workdir: Path) -> Iterator[None]:
    """Turns an OSError within into a UserError that says what to do."""
    try:
        yield
    except OSError as error:
        raise UserError(write_failure(workdir, error)) from None
