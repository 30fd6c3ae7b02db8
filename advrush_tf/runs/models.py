"""Models in files: Keras classifiers, and the supernet of a search's workdir."""

import shutil
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import keras

from advrush_tf.attacks.base import BatchedClassifier
from advrush_tf.data.dataset import ImageDataset, load_dataset
from advrush_tf.errors import UserError, one_line
from advrush_tf.files import TEMPORARY, check_archive, read_json, replacing, sha256
from advrush_tf.runs.checkpoints import CheckpointStore
from advrush_tf.runs.expansion import check_expansion
from advrush_tf.runs.progress import print_line
from advrush_tf.runs.search import build_model
from advrush_tf.runs.search_settings import SearchSettings
from advrush_tf.search.model import AdvRushSearchModel

_HDF5 = b"\x89HDF\r\n\x1a\n"


def save_model(model: keras.Model, path: Path) -> None:
    """Writes a `.keras` file in one step.

    Args:
        model: what is saved.
        path: the file, whose name ends in .keras; its folder exists.

    Raises:
        OSError: it could not be written; an earlier file of that name is untouched.
    """
    # Keras saves to a path only; the result is moved in one step.
    prefix, suffix = TEMPORARY.split("{}")
    with tempfile.TemporaryDirectory(suffix, prefix, path.parent) as folder:
        temporary = Path(folder, "model.keras")
        model.save(temporary)
        with temporary.open("rb") as source, replacing(path) as target:
            shutil.copyfileobj(source, target)


def load_classifier(path: str | Path) -> keras.Model:
    """Reads a Keras classifier, whatever it is made of; no code in it is run.

    Args:
        path: a `.keras` file.

    Raises:
        UserError: there is no such file, it is damaged, or it needs code that Keras'
            safe mode does not run or does not know.
    """
    path = Path(path)
    if path.is_dir() and not (path / "saved_model.pb").exists():
        raise UserError(
            f"{path} is a folder; give a .keras file, such as the model.keras in the "
            "workdir of a fit."
        )
    if path.is_dir():
        raise UserError(
            f"{path} is a folder, as of a SavedModel, which holds a graph without its "
            "Keras model; save the model that it was exported from as a .keras file, "
            "or give tf.saved_model.load(...).serve to advrush_tf.evaluate_robustness."
        )
    if not path.is_file():
        raise UserError(f"There is no model file {path}.")
    if path.name.endswith(".weights.h5"):
        raise UserError(
            f"{path} holds weights without their model; load them in Python by the "
            "model's load_weights and save the model as a .keras file."
        )
    with path.open("rb") as file:
        if file.read(len(_HDF5)) == _HDF5:
            raise UserError(
                f"{path} is an HDF5 file, Keras' older format; load it in Python with "
                "keras.models.load_model and save it as a .keras file."
            )
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path} is damaged or not a .keras file; save it again.")
    try:
        check_expansion(path)
        check_archive(path)
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Damage and unknown layers raise nearly everything.
        raise UserError(
            f"{path} cannot be loaded: {_cause(error)} A model whose file is damaged "
            "or holds code (a Lambda layer), or which is made of classes that are "
            "registered with neither Keras nor advrush_tf, is not run."
        ) from None
    if not isinstance(model, keras.Model):
        raise UserError(f"{path} holds a {type(model).__name__}, not a model.")
    return model


def open_classifier(
    model: keras.Model, path: Path, dataset: ImageDataset, batch_size: int
) -> BatchedClassifier:
    """A classifier as what is measured on a data set.

    Args:
        model: it gives logits of images in [0, 1].
        path: where it comes from, for messages.
        dataset: its images are what the model must take.
        batch_size: images at a time.

    Raises:
        UserError: the model does not fit the data set.
    """
    try:
        _check_size(model, dataset)
        classifier = BatchedClassifier(model, dataset.image_shape, batch_size)
    except UserError as error:
        raise UserError(f"{path}: {error}.") from None
    except Exception as error:  # Keras does not say what a wrong shape raises.
        raise UserError(
            f"{path} cannot classify images of shape {dataset.image_shape}, those of "
            f"{dataset.name} ({one_line(error)}). Give the --dataset and --image_size "
            "that it was fitted on."
        ) from None
    if classifier.num_classes != dataset.num_classes:
        raise UserError(
            f"{path} has {classifier.num_classes} classes and {dataset.name} has "
            f"{dataset.num_classes}. Give the --dataset that it was fitted on."
        )
    return classifier


def _check_size(model: keras.Model, dataset: ImageDataset) -> None:
    """Raises ValueError where a network was made for images of another size.

    It would take them all the same, but not classify them as well.
    """
    made_for = tuple(getattr(model, "image_shape", dataset.image_shape))
    if made_for != dataset.image_shape:
        raise ValueError(f"it was made for {made_for}")


def short_names(paths: Sequence[str]) -> list[str]:
    """Each file with its folder, for figures; the whole paths if these are not unique.

    The names of the files alone are often all model.keras.
    """
    names = ["/".join(Path(path).parts[-2:]) for path in paths]
    return names if len(set(names)) == len(names) else list(paths)


def _cause(error: Exception) -> str:
    """The first sentence of what went wrong innermost, on one line."""
    innermost = str(error).rpartition("Exception encountered: ")[-1]
    sentence = " ".join(innermost.split()).split(". ")[0]
    return f"{type(error).__name__}: {sentence[:200].rstrip('.')}."


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
        return SearchSettings.from_dict(read_json(path))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{path} does not hold the settings of a search of this version "
            f"({one_line(error)}). Give the --workdir of a launch/search.py."
        ) from None


def load_supernet(
    workdir: str | Path,
    data_dir: str | None = None,
    log: Callable[[str], None] = print_line,
) -> tuple[AdvRushSearchModel, str]:
    """Rebuilds the supernet of a search from its newest readable checkpoint.

    Args:
        workdir: the search's folder; nothing is written there.
        data_dir: tfds' folder of prepared data sets, for the search's own, which the
            model normalises its images by.
        log: receives a line for each damaged checkpoint.

    Returns:
        The supernet, not compiled, whose `genotype()` is the one found so far;
        and the SHA-256 of the checkpoint, in hexadecimal digits.

    Raises:
        UserError: the folder holds no search, no checkpoint that can be read, or
            those of another search; or the search's data set cannot be had.
    """
    settings = read_search_settings(workdir)
    store = CheckpointStore(Path(workdir) / "checkpoints", settings=settings)
    if store.newest() is None:
        raise UserError(
            f"{workdir} holds no checkpoint yet: let its search finish an epoch."
        )
    dataset = load_dataset(settings.dataset, data_dir, settings.image_size)
    model = build_model(settings, dataset)
    # What the optimizers need to go on is not looked at.
    weights = SimpleNamespace(checkpoint_groups={"model": model.supernet.weights})
    if not (epoch := store.find(weights, log)):
        raise UserError(
            f"{store.folder} holds no readable checkpoint of this search; copy the "
            "folder again or run the search anew."
        )
    store.load(weights, epoch)
    model.epoch = epoch
    return model, sha256(store.path(epoch))
