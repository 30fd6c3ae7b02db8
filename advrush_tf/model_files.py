"""Keras models in files that are either complete or not there."""

import shutil
import tempfile
import zipfile
from pathlib import Path

import keras

from advrush_tf.errors import UserError
from advrush_tf.files import replacing


def save_model(model: keras.Model, path: Path) -> None:
    """Writes a `.keras` file in one step.

    Args:
        model: what is saved.
        path: the file, whose name ends in .keras; its folder exists.

    Raises:
        OSError: it could not be written; an earlier file of that name is untouched.
    """
    # Keras writes to a path of its own making; the result is moved in one step.
    with tempfile.TemporaryDirectory() as folder:
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
    if not path.is_file():
        raise UserError(f"There is no model file {path}.")
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path} is damaged or not a .keras file; save it again.")
    try:
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


def _cause(error: Exception) -> str:
    """The first sentence of what went wrong innermost, on one line."""
    innermost = str(error).rpartition("Exception encountered: ")[-1]
    sentence = " ".join(innermost.split()).split(". ")[0]
    return f"{type(error).__name__}: {sentence[:200].rstrip('.')}."
