import os

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from advrush_tf.figures import style as plotting


def test_the_file_holds_the_picture(tmp_path):
    figure = Figure((2, 1), dpi=100)
    figure.add_subplot().plot([0, 1])
    path = tmp_path / "figure.png"
    pixels = plotting.picture(figure, path)
    assert pixels.shape == (100, 200, 3)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(np.rint(255 * imread(path))[..., :3], pixels)


def test_a_failed_write_leaves_the_earlier_picture(tmp_path, monkeypatch):
    path = tmp_path / "figure.png"
    plotting.picture(Figure((1, 1), dpi=50), path)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        plotting.picture(Figure((2, 1), dpi=50), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["figure.png"]


def test_a_figure_can_be_painted_without_a_file():
    assert plotting.picture(Figure((1, 1), dpi=50)).shape == (50, 50, 3)


def test_curves_differ_in_colour_marker_and_line():
    first, second = plotting.curve_style(0), plotting.curve_style(1)
    assert all(first[name] != second[name] for name in first)
    assert plotting.colour(len(plotting.COLOURS)) == plotting.colour(0)


def test_names_are_broken_after_slashes_where_possible():
    long = "runs/of_a_year/cifar_adversarial/checkpoints/model.keras"
    assert plotting.wrapped(long) == (
        "runs/of_a_year/\ncifar_adversarial/\ncheckpoints/model.keras"
    )
    assert plotting.wrapped("digits/model.keras") == "digits/model.keras"


@pytest.mark.parametrize(
    ("rgb", "expected"), [((1, 1, 1), "black"), ((0, 0, 0.5), "white")]
)
def test_letters_are_legible(rgb, expected):
    assert plotting.ink(np.array(rgb)) == expected
