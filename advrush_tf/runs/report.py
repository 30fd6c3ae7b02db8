"""One page on searches, fits, evaluations and inspections, complete in itself."""

import datetime
import importlib.resources
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from advrush_tf.files import write_text
from advrush_tf.runs.models import short_names
from advrush_tf.runs.report_parts import Section, compare
from advrush_tf.runs.report_sections import read_section
from advrush_tf.runs.table import Table
from advrush_tf.version import __version__

_TEMPLATE = "report.html.jinja"


def write_html(workdirs: Sequence[Path], path: Path) -> None:
    """Writes a report that needs no other file and no network.

    Args:
        workdirs: of searches, fits, evaluations and inspections, in the order in which
            they are told of.
        path: the HTML file, replaced if it is there.

    Raises:
        UserError: a folder holds nothing to report, or a file is damaged.
        OSError: a file could not be read or written.
    """
    sections = [read_section(workdir) for workdir in workdirs]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, render(sections))


def render(sections: Sequence[Section]) -> str:
    """The page, as HTML; all text in it is escaped."""
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = importlib.resources.files("advrush_tf.runs").joinpath(_TEMPLATE)
    return environment.from_string(template.read_text("utf-8")).render(
        sections=sections,
        comparison=_comparison(sections),
        date=datetime.datetime.now().astimezone().strftime("%-d %B %Y, %H:%M %Z"),
        version=__version__,
        text=_text,
    )


def _comparison(sections: Sequence[Section]) -> Table | None:
    """Of all models; None if no run measured any."""
    found = [one for section in sections for one in section.measurements]
    # The same file may have been given by different paths.
    paths: dict[str, str] = {}
    for one in found:
        paths.setdefault(one.model, one.path)
    names = dict(zip(paths, short_names(list(paths.values())), strict=True))
    return compare(found, names) if found else None


def _text(value: Any) -> str:
    """A setting, for readers."""
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if value is None:
        return "not used"
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)
