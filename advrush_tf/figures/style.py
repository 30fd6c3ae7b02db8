"""Style of all figures: colours for all kinds of vision, markers, files."""

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave

from advrush_tf.files import replacing

DPI = 150

# Of Okabe and Ito, for colour-blind readers; markers and line styles are for print.
COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#e69f00",
    "#000000",
)
MARKERS = "osD^vPX"
STYLES = ("-", "--", "-.", ":")
_LINE = 28  # letters, the longest line of a name


def colour(number: int) -> str:
    """The colour of the curve with this number; after the last the first again."""
    return COLOURS[number % len(COLOURS)]


def curve_style(number: int) -> dict[str, Any]:
    """Colour, marker and line style of the curve with this number, for `Axes.plot`."""
    return {
        "color": colour(number),
        "marker": MARKERS[number % len(MARKERS)],
        "ls": STYLES[number % len(STYLES)],
    }


def ink(rgba: np.ndarray) -> str:
    """Black or white, whichever contrasts more with a colour (WCAG 2, luminance).

    Args:
        rgba: (4,) or (3,), in [0, 1].
    """
    luminance = rgba[:3] ** 2.2 @ (0.2126, 0.7152, 0.0722)
    return "black" if luminance > 0.18 else "white"


def literal(name: str) -> str:
    """Returns a name from outside such that Matplotlib draws its letters.

    Dollar signs do not begin a formula, and what cannot be printed is a question mark.
    """
    letters = (letter if letter.isprintable() else "?" for letter in name)
    return "".join(letters).replace("$", r"\$")


def wrapped(name: str) -> str:
    """The name in lines of 28 letters or less, broken after slashes where possible.

    What is given is drawn as `literal` does.
    """
    lines = textwrap.wrap(name.replace("/", "/ "), _LINE)
    return "\n".join(literal(line.replace("/ ", "/")) for line in lines)


def picture(figure: Figure, path: Path | None = None) -> np.ndarray:
    """Renders a figure without a display, and writes it if there is a path.

    Args:
        figure: the figure.
        path: of a PNG file, replaced if it is there; None to write none.

    Returns:
        The RGB picture, uint8, (height, width, 3).

    Raises:
        OSError: the file could not be written.
    """
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    if path is not None:
        with replacing(path) as file:
            imsave(file, pixels, format="png", dpi=figure.dpi)
    return pixels
