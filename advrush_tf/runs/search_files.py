"""The supernet that a search left in its folder."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

from advrush_tf.data.dataset import load_dataset
from advrush_tf.errors import UserError, one_line
from advrush_tf.runs.checkpoints import CheckpointStore, assign
from advrush_tf.runs.progress import print_line
from advrush_tf.runs.search import build_model
from advrush_tf.runs.search_settings import SearchSettings
from advrush_tf.search.model import AdvRushSearchModel


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
        return SearchSettings.from_dict(recorded)
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
