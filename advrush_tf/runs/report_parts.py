"""What the page of a report is made of: sections of figures, tables and numbers."""

import base64
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.image import imsave

from advrush_tf.figures.style import DPI
from advrush_tf.runs.table import Table


@dataclasses.dataclass(frozen=True)
class Figure:
    """A picture that the page itself holds.

    Attributes:
        source: a data URI.
        caption: what it is.
        description: in words what it shows, for those who cannot see it.
        width: in CSS pixels, 1/96 inch.
    """

    source: str
    caption: str
    description: str
    width: int | None

    @classmethod
    def of_svg(cls, content: bytes, caption: str, description: str) -> "Figure":
        """A figure of an SVG file's content, in the size that it names."""
        return cls(_data_uri(content, "svg+xml"), caption, description, None)

    @classmethod
    def of_png(cls, content: bytes, caption: str) -> "Figure":
        """A figure of a PNG file's content, in the size in which it was drawn."""
        pixels = int.from_bytes(content[16:20])  # of its header
        return cls(_data_uri(content, "png"), caption, caption, pixels * 96 // DPI)

    @classmethod
    def of_pixels(cls, pixels: np.ndarray, caption: str) -> "Figure":
        """A figure of an RGB picture, uint8, (height, width, 3)."""
        buffer = io.BytesIO()
        imsave(buffer, pixels, format="png")
        return cls.of_png(buffer.getvalue(), caption)


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


@dataclasses.dataclass(frozen=True)
class Measurement:
    """A number of a model, for the comparison of all models.

    Attributes:
        model: SHA-256 of its file, or another text that tells it from others.
        path: of its file.
        quantity: what was measured.
        value: as text.
    """

    model: str
    path: str
    quantity: str
    value: str


@dataclasses.dataclass(frozen=True)
class Section:
    """What a report tells of one run.

    Attributes:
        kind: of run, in a word.
        workdir: of the run.
        lead: its outline in a sentence.
        command: what runs it again; empty where it is not known.
        settings: by name.
        versions: of libraries, by name.
        figures, tables, warnings: what was found.
        genotype: as text; empty for none.
        measurements: of models.
    """

    kind: str
    workdir: Path
    lead: str
    command: str
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    warnings: Sequence[str] = ()
    genotype: str = ""
    measurements: Sequence[Measurement] = ()


def compare(measurements: Sequence[Measurement], names: Mapping[str, str]) -> Table:
    """A table with a row for each model and a column for each quantity.

    Args:
        measurements: where two tell the same quantity of a model, the later counts.
        names: of the models, by `Measurement.model`.
    """
    quantities = list(dict.fromkeys(m.quantity for m in measurements))
    rows: dict[str, dict[str, str]] = {}
    for found in measurements:
        row = rows.setdefault(found.model, {"": names[found.model]})
        row[found.quantity] = found.value
    return Table(
        "All models, with 95 % intervals",
        ("model", *quantities),
        [[row.get(name, "") for name in ("", *quantities)] for row in rows.values()],
    )
