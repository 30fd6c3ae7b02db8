"""The page of a report: sections of figures, tables and numbers, as HTML."""

import base64
import dataclasses
import datetime
import importlib.resources
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib.image import imsave

from advrush_tf.figures.style import DPI
from advrush_tf.runs.models import short_names
from advrush_tf.runs.table import Table
from advrush_tf.version import __version__

CLEAN = "clean"  # the quantity that every classifier has
_TEMPLATE = "report.html.jinja"


@dataclasses.dataclass(frozen=True)
class Figure:
    """A picture inside the page.

    Attributes:
        source: a data URI.
        caption: text below the picture.
        description: text for readers who cannot see the picture.
        width: in CSS pixels, 1/96 inch; None for the picture's own.
    """

    source: str
    caption: str
    description: str
    width: int | None

    @classmethod
    def of_svg(cls, content: bytes, caption: str, description: str) -> "Figure":
        """Returns a figure of an SVG file's content."""
        return cls(_data_uri(content, "svg+xml"), caption, description, None)

    @classmethod
    def of_png(cls, content: bytes, caption: str) -> "Figure":
        """Returns a figure of a PNG file's content, in the size of the drawing."""
        pixels = int.from_bytes(content[16:20])  # of its header
        return cls(_data_uri(content, "png"), caption, caption, pixels * 96 // DPI)

    @classmethod
    def of_pixels(cls, pixels: np.ndarray, caption: str) -> "Figure":
        """Returns a figure of an RGB picture, uint8, (height, width, 3)."""
        buffer = io.BytesIO()
        imsave(buffer, pixels, format="png")
        return cls.of_png(buffer.getvalue(), caption)


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


@dataclasses.dataclass(frozen=True)
class Measurement:
    """A number of a model, for the comparison of all models.

    Attributes:
        model: SHA-256 of the model's file, or another text that identifies it.
        path: path of that file.
        quantity: name of the quantity.
        value: the number, as text.
    """

    model: str
    path: str
    quantity: str
    value: str


@dataclasses.dataclass(frozen=True)
class Section:
    """The part of a report on one run.

    Attributes:
        kind: kind of run, in a word.
        workdir: folder of the run.
        lead: outline in a sentence.
        conclusion: what the results come to, in a sentence; empty for nothing.
        command: command line of the run; empty where it is not known.
        settings: settings, by name.
        versions: versions of libraries, by name.
        figures, tables, warnings: results of the run.
        genotype: genotype as text; empty for none.
        measurements: numbers for the comparison of all models.
    """

    kind: str
    workdir: Path
    lead: str
    conclusion: str
    command: str
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    warnings: Sequence[str] = ()
    genotype: str = ""
    measurements: Sequence[Measurement] = ()


def compare(measurements: Sequence[Measurement], names: Mapping[str, str]) -> Table:
    """Returns a table with a row for each model and a column for each quantity.

    Args:
        measurements: of two of the same model and quantity, the later counts.
        names: names of the models, by `Measurement.model`.
    """
    quantities = list(dict.fromkeys(m.quantity for m in measurements))
    rows: dict[str, dict[str, str]] = {}
    for found in measurements:
        row = rows.setdefault(found.model, {"": names[found.model]})
        row[found.quantity] = found.value
    return Table(
        "All models, with 95 % intervals (-: not measured)",
        ("model", *quantities),
        [[row.get(name, "-") for name in ("", *quantities)] for row in rows.values()],
    )


def render(sections: Sequence[Section]) -> str:
    """Returns the page as HTML; all text in it is escaped."""
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = importlib.resources.files("advrush_tf.runs").joinpath(_TEMPLATE)
    return environment.from_string(template.read_text("utf-8")).render(
        sections=sections,
        shown_in=_first_places(sections),
        comparison=_comparison(sections),
        date=datetime.datetime.now().astimezone().strftime("%-d %B %Y, %H:%M %Z"),
        version=__version__,
        text=_text,
    )


def _comparison(sections: Sequence[Section]) -> Table | None:
    """Returns the table of all models with an accuracy; None if there is none.

    The curvature alone, such as a supernet's, is in its inspection's table.
    """
    found = [one for section in sections for one in section.measurements]
    classifiers = {one.model for one in found if one.quantity == CLEAN}
    found = [one for one in found if one.model in classifiers]
    # The same file may have been given by different paths.
    paths: dict[str, str] = {}
    for one in found:
        paths.setdefault(one.model, one.path)
    names = dict(zip(paths, short_names(list(paths.values())), strict=True))
    return compare(found, names) if found else None


def _first_places(sections: Sequence[Section]) -> dict[str, int]:
    """Returns the first section, from 1 on, of each picture's source.

    A fit has the cells of its search.
    """
    places: dict[str, int] = {}
    for number, section in enumerate(sections, 1):
        for figure in section.figures:
            places.setdefault(figure.source, number)
    return places


def _text(value: Any) -> str:
    """Returns a setting as text for readers."""
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if value is None:
        return "not used"
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)
