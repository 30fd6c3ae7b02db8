import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.image import imread

from advrush_tf.errors import UserError
from advrush_tf.figures import genotype as drawing
from advrush_tf.files import sha256
from advrush_tf.genotypes import genotype as genotypes

NAMES = list(genotypes.NAMED)


def placed(genotype):
    return dict(drawing._layouts(genotype))


@pytest.mark.parametrize("name", NAMES)
def test_every_edge_and_node_is_placed_once_without_overlap(name):
    genotype = genotypes.NAMED[name]
    for kind, layout in placed(genotype).items():
        edges = getattr(genotype, kind)
        concat = getattr(genotype, f"{kind}_concat")
        shapes = [box.kind for box, _ in layout.boxes.values()]
        assert shapes.count("operation") == len(edges)
        assert shapes.count("state") == genotype.num_nodes
        assert shapes.count("terminal") == 3
        assert len(layout.lines) == 2 * len(edges) + len(concat)
        boxes = np.array(
            [
                [*np.subtract(centre, size), *np.add(centre, size)]
                for box, centre in layout.boxes.values()
                for size in [np.array(drawing._BOX_SIZES[box.kind]) / 2]
            ]
        )
        for row, box in enumerate(boxes):
            others = np.delete(boxes, row, axis=0)
            apart = (others[:, :2] >= box[2:]) | (others[:, 2:] <= box[:2])
            assert apart.any(axis=1).all()


def test_without_graphviz_it_is_said_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(drawing, "CAN_DRAW", False)
    with pytest.raises(UserError, match=r"pip install 'advrush_tf\[drawings\]'"):
        drawing.draw_cells(genotypes.NAMED["ADVRUSH"], tmp_path / "cell")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_lines_run_from_left_to_right_between_their_boxes(name):
    for layout in placed(genotypes.NAMED[name]).values():
        for line, curve in layout.lines:
            for end, vertex in ((line.start, 0), (line.end, -1)):
                box, centre = layout.boxes[end]
                reach = np.array(drawing._BOX_SIZES[box.kind]) / 2 + 1
                assert (abs(curve.vertices[vertex] - centre) <= reach).all()
            assert layout.boxes[line.start][1][0] < layout.boxes[line.end][1][0]
        first, second = (layout.boxes[name][1] for name in drawing._INPUTS)
        assert first[0] == second[0]
        assert first[1] > second[1]  # the older input on top


def test_lines_follow_the_genotype():
    genotype = genotypes.NAMED["ADVRUSH"]
    layout = placed(genotype)["reduce"]
    # The second node of the reduction cell: skip_connect from state 0 (an input),
    # dil_conv_3x3 from state 2 (the first node).
    ends = {(line.start, line.end) for line, _ in layout.lines}
    words = {name: box.text for name, (box, _) in layout.boxes.items()}
    into = sorted(start for start, end in ends if end == "node 1")
    assert [words[box] for box in into] == [
        "skip",
        "dil conv 3\N{MULTIPLICATION SIGN}3",
    ]
    sources = [start for box in into for start, end in ends if end == box]
    assert [words[source] for source in sources] == ["$c_{k-2}$", "0"]
    outputs = {words[start] for start, end in ends if end == "output"}
    assert outputs == {"0", "1", "2", "3"}


def test_every_operation_has_a_colour_and_words_that_fit_its_box():
    for op in set(genotypes.ALL_PRIMITIVES) - {"none"}:
        assert drawing._family(op)
        words = drawing._words(op)
        assert "_" not in words
        assert len(words) <= len("max pool 3x3")


def test_draw_cells_writes_png_and_svg(tmp_path):
    paths = drawing.draw_cells(genotypes.NAMED["NASNet"], tmp_path / "cell")
    endings = ["normal.png", "normal.svg", "reduce.png", "reduce.svg"]
    assert paths == [tmp_path / f"cell_{ending}" for ending in endings]
    for png, svg in (paths[:2], paths[2:]):
        pixels = imread(png)
        assert pixels.ndim == 3
        assert np.allclose(pixels[0, 0, :3], 1)
        assert pixels.std() > 0.05
        root = ElementTree.parse(svg).getroot()
        points = float(root.attrib["width"].removesuffix("pt"))
        assert pixels.shape[1] == pytest.approx(points * 300 / 72, abs=1)
        # Text is drawn as outlines: it looks the same where the font is missing.
        assert not list(root.iter("{http://www.w3.org/2000/svg}text"))
        fills = set(re.findall(r"fill: (#\w+)", svg.read_text(encoding="utf-8")))
        assert {"#cfe3f3", "#f3d9e8", "#cdeee2"} <= fills


def test_a_full_disk_leaves_an_earlier_drawing(tmp_path, monkeypatch):
    def run_full(figure, file, **options):
        file.write(b"a part")
        raise OSError("No space left on device")

    (tmp_path / "cell_normal.png").write_bytes(b"earlier")
    monkeypatch.setattr(drawing.Figure, "savefig", run_full)
    with pytest.raises(OSError, match="No space"):
        drawing.draw_cells(genotypes.NAMED["ADVRUSH"], tmp_path / "cell")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"earlier"]


def test_equal_genotypes_make_equal_files(tmp_path):
    genotype = genotypes.NAMED["RACL"]
    first = drawing.draw_cells(genotype, tmp_path / "a")
    second = drawing.draw_cells(genotype, tmp_path / "b")
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    "genotype",
    [
        genotypes.NAMED["AmoebaNet"],
        genotypes.random_genotype(0, 1),
        genotypes.random_genotype(3, 7, genotypes.ALL_PRIMITIVES),
        # Nothing reads the older input, and only one of three nodes is put out.
        genotypes.Genotype(
            (("skip_connect", 1),) * 6, (3,), (("avg_pool_3x3", 1),) * 6, (4,)
        ),
    ],
)
def test_genotype_image_is_a_picture(genotype):
    image = drawing.genotype_image(genotype)
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert (image[-1, -1] == 255).all()
    assert image.std() > 10


def test_genotype_image_shows_a_change():
    one, other = (
        genotypes.Genotype([(op, 0), ("skip_connect", 1)], [2], [(op, 0)] * 2, [2])
        for op in ("sep_conv_3x3", "dil_conv_3x3")
    )
    images = [drawing.genotype_image(genotype) for genotype in (one, other)]
    assert images[0].shape == images[1].shape
    assert (images[0] != images[1]).any()


def test_needs_neither_fonts_nor_a_display(tmp_path):
    bare = {
        "FONTCONFIG_FILE": str(tmp_path / "missing"),
        "HOME": str(tmp_path),
        "MPLCONFIGDIR": str(tmp_path),
        "PATH": str(tmp_path),
        "PYTHONPATH": str(Path(drawing.__file__).parents[2]),
    }
    code = (
        "from advrush_tf.figures.genotype import draw_cells\n"
        "from advrush_tf.genotypes.genotype import NAMED\n"
        "draw_cells(NAMED['ADVRUSH'], 'cell')"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=bare,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Fontconfig" not in run.stderr
    assert run.stdout == ""
    here = drawing.draw_cells(genotypes.NAMED["ADVRUSH"], tmp_path / "here")
    there = sorted(tmp_path.glob("cell_*"))
    # Digests: pytest would take minutes to explain how pictures differ.
    assert [sha256(path) for path in there] == [sha256(path) for path in here]
