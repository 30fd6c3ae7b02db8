"""Tables of results, for files, the terminal, TensorBoard and the page of a report."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from advrush_tf.statistics import wilson


@dataclasses.dataclass(frozen=True)
class Table:
    """A table whose first column names the rows; all cells are text."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """Returns the table in Markdown, below its caption."""
        head, *rows = (_line(cells) for cells in (self.head, *self.rows))
        rule = "|" + "---|" * len(self.head)
        return "\n".join([f"{self.caption}:", "", head, rule, *rows])


def _line(cells: Sequence[str]) -> str:
    # A bar would end the cell.
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def images_text(settings: Mapping[str, Any]) -> str:
    """Returns a run's data set, with the side that its images were given if any."""
    size = settings.get("image_size")
    return f"{settings['dataset']} at {size}x{size}" if size else settings["dataset"]


def mean_text(number: Mapping[str, Any]) -> str:
    """Returns a mean with its interval, if any, from "mean", "low" and "high"."""
    if number["low"] is None:
        return f"{number['mean']:.3g}"
    return "{mean:.3g} ({low:.3g} to {high:.3g})".format(**number)


def share_text(share: Mapping[str, Any]) -> str:
    """Returns an accuracy with its interval, from "accuracy" and "interval"."""
    low, high = share["interval"]
    return f"{share['accuracy']:.2%} ({low:.2%} to {high:.2%})"


def accuracy_text(accuracy: float, images: int) -> str:
    """Returns an accuracy on so many images with its 95 % Wilson interval."""
    interval = wilson(round(accuracy * images), images)
    return share_text({"accuracy": accuracy, "interval": interval})
