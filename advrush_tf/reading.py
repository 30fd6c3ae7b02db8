"""Errors of files that are read while a run goes on."""

import contextlib
from collections.abc import Iterator

import tensorflow as tf

from advrush_tf.data_source import reason
from advrush_tf.errors import UserError


@contextlib.contextmanager
def reading_examples() -> Iterator[None]:
    """Turns what the input of a run raises, when a file cannot be read, into an error.

    Raises:
        UserError: If a file of the data set is missing or damaged.
    """
    try:
        yield
    except tf.errors.OpError as error:
        # Not what the model's own operations raise.
        if "IteratorGetNext" not in str(error):
            raise
        raise UserError(
            f"An example of the data set could not be read ({reason(error)}); delete "
            "the data set's folder and prepare or copy it again."
        ) from error
