"""What a search left in its folder: its supernet and its history."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import tensorflow as tf

from advrush_tf.data.dataset import load_dataset
from advrush_tf.errors import UserError, one_line
from advrush_tf.figures.search import draw_alphas, draw_history
from advrush_tf.runs.checkpoints import CheckpointStore, assign
from advrush_tf.runs.progress import print_line
from advrush_tf.runs.search import build_model
from advrush_tf.runs.search_settings import SearchSettings
from advrush_tf.runs.settings import Precision
from advrush_tf.search.history import read_history
from advrush_tf.search.model import AdvRushSearchModel
from advrush_tf.search.penalty import Penalty


def read_search_settings(workdir: str | Path) -> SearchSettings:
    """Reads the settings that a search left in its folder.

    Args:
        workdir: the search's folder.

    Raises:
        UserError: it holds no search, or its settings.json is damaged.
    """
    path = Path(workdir) / "settings.json"
    if not path.is_file():
        raise UserError(
            f"{workdir} is no search's folder: it has no settings.json. Give the "
            "--workdir of a launch/search.py."
        )
    try:
        recorded = json.loads(path.read_text("utf-8"))
        if set(recorded) != {
            field.name for field in dataclasses.fields(SearchSettings)
        }:
            raise ValueError("its entries are others")
        typed = {
            "primitives": tuple(recorded["primitives"]),
            "penalty": Penalty(recorded["penalty"]),
            "precision": Precision(recorded["precision"]),
        }
        return SearchSettings(**{**recorded, **typed})
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{path} does not hold the settings of a search of this version "
            f"({one_line(error)}). Give the --workdir of a launch/search.py."
        ) from None


def load_supernet(
    workdir: str | Path,
    data_dir: str | None = None,
    say: Callable[[str], None] = print_line,
) -> tuple[AdvRushSearchModel, str]:
    """Rebuilds the supernet of a search from its newest readable checkpoint.

    Args:
        workdir: the search's folder; nothing is written there.
        data_dir: tfds' folder of prepared data sets, for the search's own, which the
            model normalises its images by.
        say: receives a line for each damaged checkpoint.

    Returns:
        The supernet, not compiled, whose `genotype()` tells what the search has found;
        and the SHA-256 of the checkpoint, in hexadecimal digits.

    Raises:
        UserError: the folder holds no search, no checkpoint that can be read, or
            those of another search; or the search's data set cannot be had.
    """
    settings = read_search_settings(workdir)
    store = CheckpointStore(Path(workdir) / "checkpoints")
    if store.newest() is None:
        raise UserError(
            f"{workdir} holds no checkpoint yet: let its search finish an epoch."
        )
    dataset = load_dataset(settings.dataset, data_dir, settings.image_size)
    model = build_model(settings, dataset)
    # What the optimizers need to go on is not looked at.
    weights = SimpleNamespace(checkpoint_groups={"model": model.supernet.weights})
    content = store.newest_readable(weights, say)
    if not content:
        raise UserError(
            f"{store.folder} holds no readable checkpoint of this search; copy the "
            "folder again or run the search anew."
        )
    assign(weights, content)
    return model, hashlib.sha256(content).hexdigest()


def draw_search(
    run: Path, name: str, workdir: Path, say: Callable[[str], None]
) -> None:
    """Draws the history of a search into a folder.

    Args:
        run: the search's workdir.
        name: what the figures' names have after "search_".
        workdir: receives the figures, also in tensorboard/; made if it is not there.
        say: receives the lines for the user.

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
    writer = tf.summary.create_file_writer(str(workdir / "tensorboard"))
    with writer.as_default(0):
        for name, picture in pictures.items():
            tf.summary.image(name, picture[np.newaxis])
    writer.close()
    ends = ("", "_alphas_normal", "_alphas_reduce")
    written = ", ".join(str(workdir / f"{stem}{end}.png") for end in ends)
    say(f"History      of {run}: {written}")
