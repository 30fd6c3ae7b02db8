"""Keras models in files that are either complete or not there."""

import shutil
import tempfile
from pathlib import Path

import keras

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
