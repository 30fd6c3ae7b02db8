import base64
import io

import numpy as np
from matplotlib.image import imread

from advrush_tf.runs.report_parts import Figure, Measurement, compare

PIXELS = np.random.default_rng(0).integers(0, 256, (30, 300, 3), np.uint8)


def _content(source, kind):
    head, _, text = source.partition(",")
    assert head == f"data:image/{kind};base64"
    return base64.b64decode(text)


def test_a_figure_holds_its_pixels_in_the_size_of_print():
    figure = Figure.of_pixels(PIXELS, "Noise")
    found = imread(io.BytesIO(_content(figure.source, "png")))[..., :3]
    np.testing.assert_allclose(found * 255, PIXELS, atol=0.01)
    # 300 pixels at 150 an inch are 2 inches.
    assert figure.width == 192
    assert figure.description == figure.caption == "Noise"


def test_an_svg_is_kept_as_it_is():
    figure = Figure.of_svg(b"<svg/>", "Cell", "One edge.")
    assert _content(figure.source, "svg+xml") == b"<svg/>"
    assert (figure.caption, figure.description, figure.width) == (
        "Cell",
        "One edge.",
        None,
    )


def test_models_are_compared_by_what_they_are_not_by_their_paths():
    table = compare(
        [
            Measurement("1", "a.keras", "clean", "90%"),
            Measurement("2", "b.keras", "clean", "80%"),
            Measurement("1", "./a.keras", "curvature", "3"),
            Measurement("1", "./a.keras", "clean", "91%"),
        ],
        {"1": "first", "2": "second"},
    )
    assert table.head == ("model", "clean", "curvature")
    assert table.rows == [["first", "91%", "3"], ["second", "80%", ""]]
