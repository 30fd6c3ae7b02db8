"""The frame of all runs: how they begin, resume, are found finished, and fail."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from advrush_tf.attacks.sanity_checks import missing_classes
from advrush_tf.data.dataset import ImageDataset, load_dataset
from advrush_tf.data.examples import Examples
from advrush_tf.errors import UserError
from advrush_tf.runs.checkpoints import CheckpointStore
from advrush_tf.runs.devices import Devices
from advrush_tf.runs.progress import print_existing_summary, print_line, write_failure
from advrush_tf.runs.settings import Settings, record_settings

Log = Callable[[str], None]
_Settings = TypeVar("_Settings", bound=Settings)


class Run(Generic[_Settings]):
    """Settings, workdir, devices and log of a run; its work is in a `with` statement.

    Args:
        settings: of the run.
        workdir: folder of its results; of several workers the chief alone writes there.
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

    def load_dataset(self, name: str, image_size: int | None) -> ImageDataset:
        """Returns a data set, see `load_dataset`."""
        dataset = load_dataset(name, self.data_dir, image_size)
        if dataset.train.ordered:
            self.log(
                f"warning: data set {name} is stored in an order of its own, such as "
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
        """Raises UserError where workers have other settings or data than the chief.

        Args:
            dataset: of the run.
            **also: what else must be the same, as JSON types.
        """
        self.devices.agree(self.settings.to_dict() | dataset.facts() | also)

    def open(self) -> None:
        """Takes the workdir, which from now on holds a run of these settings.

        To be called once all that may be wrong with the settings has been checked.

        Raises:
            UserError: the folder cannot be used, or holds a run of other settings.
        """
        self.devices.on_chief(lambda: record_settings(self.settings, self.workdir))
        self._frame.enter_context(explained_writes(self.workdir))

    def finished(
        self,
        report: str,
        print_summary: Callable[[dict[str, Any], Path, Log], None],
        kind: str,
    ) -> dict[str, Any] | None:
        """Returns the report of a finished run, once shown anew; None without one.

        Args:
            report: its name in the workdir.
            print_summary: see `print_existing_summary`.
            kind: what was run, in a word.

        Raises:
            UserError: the report is damaged.
        """
        path = self.workdir / report

        def find() -> dict[str, Any] | None:
            if not path.exists():
                return None
            return print_existing_summary(path, print_summary, self.log, kind)

        return self.from_chief(find)

    def from_chief(self, make: Callable[[], Any]) -> Any:
        """Returns what the chief makes, JSON types, on every worker."""
        return json.loads(self.devices.from_chief(lambda: json.dumps(make()).encode()))

    def restore(self, model: Any, epochs: int) -> tuple[int, dict[str, Any]]:
        """Sets a model to the newest checkpoint, if there is one.

        Args:
            model: the compiled model.
            epochs: length of the run.

        Returns:
            The number of finished epochs, and the notes; see `CheckpointStore`.
        """
        epoch, notes = self.store.restore(model, self.log, self.devices.from_chief)
        if epoch:
            self.log(f"Resuming {self.workdir} after epoch {epoch} of {epochs}.")
        return epoch, notes


@contextlib.contextmanager
def explained_writes(workdir: Path) -> Iterator[None]:
    """Turns an OSError within into a UserError that says what to do."""
    try:
        yield
    except OSError as error:
        raise UserError(write_failure(workdir, error)) from None
