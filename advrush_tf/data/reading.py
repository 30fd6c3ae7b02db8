"""Errors of files that are read while a run goes on."""

import contextlib
import re
from collections.abc import Iterator

import tensorflow as tf

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
            f"An example of the data set could not be read ({_cause(error)}); delete "
            "the data set's folder and prepare or copy it again."
        ) from error


def _cause(error: tf.errors.OpError) -> str:
    """What went wrong, without where in the program."""
    told = re.split(r"\n\t \[\[| \[Op:", str(error))[0].splitlines()[-1]
    return re.sub(r"\{\{.*?\}\} ", "", told).rpartition(": ")[-1].rstrip(".")
