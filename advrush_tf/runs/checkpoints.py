"""Checkpoints of a run: everything that is needed to go on exactly.

A checkpoint is one .npz file without pickled objects, written beside its final name
and moved there when it is complete and on disk.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from advrush_tf.errors import UserError
from advrush_tf.files import parse_json, read_arrays, write_arrays
from advrush_tf.runs.settings import Settings

_NOTES, _EPOCH, _SETTINGS = "notes", "epoch", "settings"
_NAME = re.compile(r"epoch_(\d+)\.npz")


class CheckpointStore:
    """The newest checkpoints of a model in a folder.

    Args:
        folder: where they are; made when needed.
        keep: how many of the newest to keep, at least 1.
        settings: of the run, which each checkpoint names, but for those of earlier
            versions; one of another run counts as damaged.
    """

    def __init__(
        self, folder: str | Path, keep: int = 2, settings: Settings | None = None
    ):
        self.folder = Path(folder)
        self.keep = keep
        self.settings = settings

    def save(
        self, model: Any, epoch: int, notes: Mapping[str, Any] | None = None
    ) -> Path:
        """Writes a model's state after `epoch` finished epochs, atomically.

        Checkpoints from this epoch on, which `find` passed over, are renamed: their
        names then end in `.damaged`.

        Args:
            model: a compiled model, whose `checkpoint_groups` are saved.
            epoch: number of finished epochs.
            notes: what else must survive, as JSON can hold it.

        Returns:
            The file.

        Raises:
            OSError: it could not be written; earlier checkpoints are untouched.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.path(epoch)
        arrays = {name: np.asarray(v) for name, v in _variables(model)}
        arrays[_NOTES] = np.asarray(json.dumps(notes or {}))
        arrays[_EPOCH] = np.asarray(epoch)
        if self.settings:
            arrays[_SETTINGS] = np.asarray(json.dumps(self.settings.to_dict()))
        for number, old in self._files():
            if number >= epoch:
                old.replace(old.with_name(f"{old.name}.damaged"))
        write_arrays(path, **arrays)
        for _, old in self._files()[self.keep :]:
            old.unlink()
        return path

    def restore(
        self, model: Any, warn: Callable[[str], None]
    ) -> tuple[int, dict[str, Any]]:
        """Sets a model to the newest readable checkpoint.

        Args:
            model: the compiled model to set.
            warn: called with a sentence for each damaged checkpoint.

        Returns:
            The number of finished epochs, 0 if there is no checkpoint, and the notes.

        Raises:
            UserError: a checkpoint cannot be read; whether it is damaged is unknown.
        """
        epoch = self.find(model, warn)
        return epoch, self.load(model, epoch) if epoch else {}

    def find(self, model: Any, warn: Callable[[str], None]) -> int:
        """Returns the epoch of the newest readable checkpoint, 0 without one.

        Args:
            model: whose `checkpoint_groups` must be in it.
            warn: called with a sentence for each damaged checkpoint.

        Raises:
            UserError: a checkpoint cannot be read; whether it is damaged is unknown.
        """
        variables = dict(_variables(model))
        for epoch, path in self._files():
            try:
                arrays, _ = self._read(path, variables)
                if (number := int(arrays[_EPOCH])) != epoch:
                    raise ValueError(f"it is of epoch {number}")
            except UserError:
                raise
            except (ValueError, LookupError, TypeError) as e:
                warn(f"Checkpoint {path} is damaged ({e}); trying the one before it.")
                continue
            return epoch
        return 0

    def load(self, model: Any, epoch: int) -> dict[str, Any]:
        """Sets a model to the checkpoint of an epoch and returns its notes.

        Args:
            model: whose `checkpoint_groups` are set.
            epoch: of a readable checkpoint of such a model.
        """
        variables = dict(_variables(model))
        arrays, notes = self._read(self.path(epoch), variables)
        for name, variable in variables.items():
            variable.assign(arrays[name])
        return notes

    def path(self, epoch: int) -> Path:
        """Returns the file of an epoch's checkpoint."""
        return self.folder / f"epoch_{epoch:04d}.npz"

    def newest(self) -> Path | None:
        """The file of the newest checkpoint, readable or not, if there is one."""
        return next((path for _, path in self._files()), None)

    def _read(
        self, path: Path, variables: Mapping[str, keras.Variable]
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Reads all arrays and the notes, and verifies whose and of what shape."""
        try:
            arrays = read_arrays(path)
        except OSError as error:
            raise UserError(
                f"Checkpoint {path} cannot be read ({error.strerror}); make it "
                "readable and run the same command to resume."
            ) from None
        if self.settings and _SETTINGS in arrays:
            recorded = _object(arrays[_SETTINGS])
            if different := self.settings.differences(recorded):
                raise ValueError(f"it is of a run where {'; '.join(different)}")
        for name, variable in variables.items():
            if arrays[name].shape != tuple(variable.shape):
                raise ValueError(f"{name} has shape {arrays[name].shape}")
        return arrays, _object(arrays[_NOTES])

    def _files(self) -> list[tuple[int, Path]]:
        """The checkpoints, newest first."""
        if not self.folder.is_dir():
            return []
        found = ((_NAME.fullmatch(path.name), path) for path in self.folder.iterdir())
        return sorted(((int(m[1]), path) for m, path in found if m), reverse=True)


def _variables(model: Any) -> Iterator[tuple[str, keras.Variable]]:
    for group, variables in model.checkpoint_groups.items():
        for index, variable in enumerate(variables):
            yield f"{group}_{index:04d}", variable


def _object(text: np.ndarray) -> dict[str, Any]:
    """The JSON object in an array of one text."""
    value = parse_json(text.item())
    if not isinstance(value, dict):
        raise ValueError("its notes are no object")
    return value
