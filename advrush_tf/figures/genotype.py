"""Drawings of a genotype's cells: Graphviz places, Matplotlib paints.

Graphviz only ever sees boxes of a known size, never text, so that it needs no fonts;
Matplotlib brings its own. Neither needs a display.
"""

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as Curve
from matplotlib.transforms import Affine2D

from advrush_tf.errors import UserError
from advrush_tf.figures.style import picture
from advrush_tf.files import replacing
from advrush_tf.genotypes.genotype import Genotype

# True if Graphviz is here. Searches and reports go without drawings where it is not.
CAN_DRAW = importlib.util.find_spec("pygraphviz") is not None
NEEDED = "pygraphviz is not installed; run pip install 'advrush_tf[drawings]'"

_INPUTS = ("input 0", "input 1")
_OUTPUT = "output"
_BOX_SIZES = {"state": (24, 24), "terminal": (38, 24), "operation": (84, 20)}  # points
_INPUT_GAP = 24  # points between the two inputs, so that edges can pass
_MARGIN = 6  # points around a cell
_TITLE_HEIGHT = 24  # points above a cell
_PRINT_DPI = 300
_SCREEN_DPI = 120

# Okabe & Ito's palette, distinct to readers with any colour vision, lightened so that
# black text stays legible and grey print stays grey: (fill, border).
_FAMILY_COLOURS = {
    "sep_conv": ("#cfe3f3", "#0072b2"),
    "dil_conv": ("#fbe3bf", "#d58a00"),
    "conv_7x1": ("#f9f5bd", "#a89b00"),
    "max_pool": ("#f3d9e8", "#cc79a7"),
    "avg_pool": ("#f3d9e8", "#cc79a7"),
    "skip_connect": ("#cdeee2", "#009e73"),
    "none": ("#ffffff", "#999999"),
}
_STATE_COLOURS = ("#ffffff", "#333333")
_TERMINAL_COLOURS = ("#e4e4e4", "#333333")
_LINE = "#444444"
_PALE_LINE = "#999999"


@dataclass(frozen=True)
class _Box:
    kind: str  # a key of _BOX_SIZES
    text: str
    colours: tuple[str, str]


@dataclass(frozen=True)
class _Line:
    start: str
    end: str
    colour: str
    arrow: bool


@dataclass(frozen=True)
class _Layout:
    """A placed cell; coordinates in points, from the lower left corner."""

    boxes: dict[str, tuple[_Box, tuple[float, float]]]
    lines: list[tuple[_Line, Curve]]
    size: tuple[float, float]


def draw_cells(genotype: Genotype, stem: str | os.PathLike) -> list[Path]:
    """Draws both cells for print, each as PNG (300 dpi) and SVG (text as outlines).

    Args:
        genotype: the genotype.
        stem: path and beginning of the file names, to which "_normal.png",
            "_normal.svg", "_reduce.png" and "_reduce.svg" are added.

    Returns:
        The four files, in this order.

    Raises:
        OSError: a file could not be written; an earlier one is untouched.
        UserError: pygraphviz is not installed.
    """
    stem = Path(stem)
    written = []
    for kind, layout in _layouts(genotype):
        figure = _figure([layout], titles=None)
        for suffix in ("png", "svg"):
            path = stem.with_name(f"{stem.name}_{kind}.{suffix}")
            # Without date and with fixed ids, equal genotypes make equal files.
            metadata = {"Date": None} if suffix == "svg" else None
            with (
                matplotlib.rc_context({"svg.hashsalt": "cell", "svg.fonttype": "path"}),
                replacing(path) as file,
            ):
                figure.savefig(file, format=suffix, dpi=_PRINT_DPI, metadata=metadata)
            written.append(path)
    return written


def genotype_image(genotype: Genotype) -> np.ndarray:
    """Draws both cells into one picture for the screen, one above the other.

    Args:
        genotype: the genotype.

    Returns:
        RGB picture, uint8, shape (height, width, 3).

    Raises:
        UserError: pygraphviz is not installed.
    """
    kinds, layouts = zip(*_layouts(genotype), strict=True)
    titles = [{"normal": "normal cell", "reduce": "reduction cell"}[k] for k in kinds]
    return picture(_figure(layouts, titles, dpi=_SCREEN_DPI))


def _layouts(genotype: Genotype) -> list[tuple[str, _Layout]]:
    return [
        ("normal", _place(*_graph(genotype.normal, genotype.normal_concat))),
        ("reduce", _place(*_graph(genotype.reduce, genotype.reduce_concat))),
    ]


def _graph(
    edges: Sequence[tuple[str, int]], concat: Sequence[int]
) -> tuple[dict[str, _Box], list[_Line]]:
    states = [*_INPUTS, *(f"node {node}" for node in range(len(edges) // 2))]
    boxes = {
        _INPUTS[0]: _Box("terminal", "$c_{k-2}$", _TERMINAL_COLOURS),
        _INPUTS[1]: _Box("terminal", "$c_{k-1}$", _TERMINAL_COLOURS),
    }
    lines = []
    for node, name in enumerate(states[2:]):
        boxes[name] = _Box("state", str(node), _STATE_COLOURS)
        for slot in (0, 1):
            op, state = edges[2 * node + slot]
            box = f"operation {node} {slot}"
            boxes[box] = _Box("operation", _words(op), _FAMILY_COLOURS[_family(op)])
            lines.append(_Line(states[state], box, _LINE, arrow=False))
            lines.append(_Line(box, name, _LINE, arrow=True))
    boxes[_OUTPUT] = _Box("terminal", "$c_{k}$", _TERMINAL_COLOURS)
    lines += [_Line(states[state], _OUTPUT, _PALE_LINE, arrow=True) for state in concat]
    return boxes, lines


def _family(op: str) -> str:
    return next(family for family in _FAMILY_COLOURS if op.startswith(family))


def _words(op: str) -> str:
    words = op.removesuffix("_connect").split("_")
    return " ".join(
        word.replace("x", "\N{MULTIPLICATION SIGN}") if word[0].isdigit() else word
        for word in words
    )


def _place(boxes: dict[str, _Box], lines: list[_Line]) -> _Layout:
    if not CAN_DRAW:
        raise UserError(f"Cells cannot be drawn: {NEEDED}.")
    import pygraphviz  # type: ignore[import-untyped]

    graph = pygraphviz.AGraph(directed=True, strict=False)
    graph.graph_attr.update(rankdir="LR", nodesep="0.14", ranksep="0.42")
    graph.node_attr.update(label="", fixedsize="true")
    for name, box in boxes.items():
        across, high = _BOX_SIZES[box.kind]
        shape = "circle" if box.kind == "state" else "box"
        graph.add_node(name, width=across / 72, height=high / 72, shape=shape)
    graph.add_node("gap", width=0.1, height=_INPUT_GAP / 72)
    graph.add_subgraph([*_INPUTS, "gap"], rank="source")
    graph.add_subgraph([_OUTPUT], rank="sink")
    graph.add_path([_INPUTS[0], "gap", _INPUTS[1]])  # keeps them in this order
    for key, line in enumerate(lines):
        ends = {
            "tailport": "e" if boxes[line.start].kind == "operation" else "_",
            "headport": "w" if boxes[line.end].kind == "operation" else "_",
            "arrowhead": "normal" if line.arrow else "none",
        }
        graph.add_edge(line.start, line.end, key=str(key), **ends)
    graph.layout("dot")
    _, _, width, height = _numbers(graph.graph_attr["bb"])
    placed = {}
    for name, box in boxes.items():
        x, y = _numbers(graph.get_node(name).attr["pos"])
        placed[name] = (box, (x, y))
    curves = [
        (line, _curve(graph.get_edge(line.start, line.end, str(key)).attr["pos"]))
        for key, line in enumerate(lines)
    ]
    return _Layout(placed, curves, (width, height))


def _numbers(text: str) -> list[float]:
    return [float(number) for number in text.split(",")]


def _curve(position: str) -> Curve:
    """Reads an edge: cubic Bezier curves, and a straight tip if there is an arrow.

    Graphviz writes "e,<tip> <point> <point> ...", without an arrow no "e,<tip>".
    """
    words = position.split()
    tips = [_numbers(word[2:]) for word in words if word.startswith("e,")]
    points = [_numbers(word) for word in words if not word.startswith("e,")]
    codes = [Curve.MOVETO, *[Curve.CURVE4] * (len(points) - 1)]
    return Curve(points + tips, codes + [Curve.LINETO] * len(tips))


def _figure(
    layouts: Sequence[_Layout], titles: Sequence[str] | None, dpi: int = _PRINT_DPI
) -> Figure:
    header = _TITLE_HEIGHT if titles else 0
    width = max(layout.size[0] for layout in layouts) + 2 * _MARGIN
    heights = [layout.size[1] + 2 * _MARGIN + header for layout in layouts]
    figure = Figure(figsize=(width / 72, sum(heights) / 72), dpi=dpi, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, sum(heights)))
    axes.axis("off")
    top = sum(heights)
    for index, layout in enumerate(layouts):
        if titles:
            axes.text(_MARGIN, top - 6, titles[index], size=10, weight="bold", va="top")
        top -= heights[index]
        _paint(axes, layout, _MARGIN, top + _MARGIN)
    return figure


def _paint(axes: Axes, layout: _Layout, left: float, bottom: float) -> None:
    shift = Affine2D().translate(left, bottom)
    for line, curve in layout.lines:
        style: dict[str, Any] = {"color": line.colour, "lw": 0.9, "fill": line.arrow}
        head = "-|>,head_length=5,head_width=2" if line.arrow else "-"
        path = shift.transform_path(curve)
        axes.add_patch(FancyArrowPatch(path=path, arrowstyle=head, **style))
    for box, (x, y) in layout.boxes.values():
        _paint_box(axes, box, x + left, y + bottom)


def _paint_box(axes: Axes, box: _Box, x: float, y: float) -> None:
    width, height = _BOX_SIZES[box.kind]
    fill, border = box.colours
    style: dict[str, Any] = {"facecolor": fill, "edgecolor": border, "lw": 1}
    if box.kind == "state":
        axes.add_patch(Circle((x, y), width / 2, **style))
    else:
        corner = (x - width / 2, y - height / 2)
        rounded = "round,pad=0,rounding_size=4"
        axes.add_patch(FancyBboxPatch(corner, width, height, rounded, **style))
    axes.text(x, y, box.text, size=9, ha="center", va="center_baseline")
