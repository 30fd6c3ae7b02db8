import base64
import hashlib
import io
import shutil
import subprocess
from html import escape
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.image import imread

from advrush_tf.errors import UserError
from advrush_tf.runs.report import read_section, write_html
from advrush_tf.runs.report_page import Figure, Measurement, Section, compare, render
from support.workdirs import (
    COLOURS,
    COMMAND,
    make_evaluation,
    make_fit,
    make_inspection,
    make_search,
)

HOSTILE = "<img src='http://x/y.png'>&\"data\""
BEST = hashlib.sha256(b"the best").hexdigest()
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PIXELS = np.random.default_rng(0).integers(0, 256, (30, 300, 3), np.uint8)
VOID = {"meta", "img", "link", "br", "hr", "input"}


class Page(HTMLParser):
    """What a page holds; raises if its tags are not balanced."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self._open = [], [], []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [
        make_search(folder / "search", dataset=HOSTILE),
        make_fit(_new(folder / "fit")),
        make_evaluation(_new(folder / "attack"), sha256=BEST),
        make_inspection(_new(folder / "inspect"), sha256=BEST),
    ]


def _new(folder):
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def path(workdirs):
    path = workdirs[0].parent / "pages" / "report.html"
    write_html(workdirs, path)
    return path


@pytest.fixture(scope="module")
def page(path):
    return Page(path.read_text("utf-8"))


def test_every_run_has_a_section_that_the_contents_name(page, workdirs):
    sections = [section["id"] for section in page.all("section")]
    assert len(sections) == 4
    assert [link["href"] for link in page.all("a")] == [f"#{name}" for name in sections]
    for kind, workdir in zip(
        ("Search", "Fit", "Evaluation", "Inspection"), workdirs, strict=True
    ):
        assert f"{kind}: {workdir}" in page.text


def test_nothing_is_loaded_from_elsewhere(page, path):
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "base")
        assert not {"srcset", "style", "onload", "onerror"} & attributes.keys()
        assert attributes.get("src", "data:image/").startswith("data:image/")
        assert attributes.get("href", "#").startswith("#")
    (policy,) = (meta["content"] for meta in page.all("meta") if "http-equiv" in meta)
    assert "default-src 'none'" in policy
    style = path.read_text("utf-8").partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style and "@import" not in style


def test_text_of_the_runs_is_no_markup(page):
    assert f"On {HOSTILE}, after epoch" in page.text
    assert all("http:" not in image["src"] for image in page.all("img"))


def test_every_picture_says_what_it_shows(page):
    images = page.all("img")
    # Of the search 5, of the fit and the evaluation 1 each, of the inspection 2.
    assert len(images) == 9
    descriptions = [image["alt"] for image in images]
    assert all(descriptions) and len(set(descriptions)) == 9


def test_a_table_compares_what_was_measured_of_the_same_file(path):
    table = path.read_text("utf-8").partition("<table>")[2].partition("</table>")[0]
    rows = [Page(row.partition("</tr>")[0]) for row in table.split("<tr>")[1:]]
    head, best, last = (row.text.replace("\N{NO-BREAK SPACE}", " ") for row in rows)
    assert head.startswith("model clean PGD-20, epsilon 0.1 (fit) fgsm, Linf, epsilon")
    every = "all of fgsm + autoattack + transfers, Linf, epsilon 8/255"
    assert head.endswith(f"{every} top eigenvalue")
    # The evaluation's clean accuracy, as it comes after the fit's.
    assert best.startswith("fit/model.keras 75.00% (30.06 to 95.44%) 50.50% (")
    assert best.endswith("3.25 (2.5 to 4)")
    assert last.startswith("fit/model_last.keras 60.00% (")
    assert last.endswith(" - - - -")


def test_settings_commands_and_versions_are_there(page):
    # The search alone was started by a launcher.
    assert page.text.count("To run it again") == 1
    assert COMMAND in page.text
    assert "num_nodes 2" in page.text
    assert "jit_compile no" in page.text
    assert "beta not used" in page.text
    assert "attacks fgsm, autoattack" in page.text
    assert "advrush_tf 1.2.3" in page.text


def test_an_interval_is_kept_on_one_line(path):
    assert "(30.06\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}95.44%)" in path.read_text()


def test_a_page_without_models_has_no_comparison():
    assert Page(render([])).all("table") == []


def test_a_page_is_replaced_or_left_as_it_was(workdirs, tmp_path):
    path = tmp_path / "report.html"
    write_html(workdirs[1:2], path)
    whole = path.read_bytes()
    with pytest.raises(UserError, match="nothing to report"):
        write_html([workdirs[1], tmp_path], path)
    assert path.read_bytes() == whole
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


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
    assert table.rows == [["first", "91%", "3"], ["second", "80%", "-"]]


def _section(workdir, figures=(), measurements=()):
    return Section(
        *("Fit", workdir, "It ran.", "It went well.", "", {}, {}),
        figures=figures,
        measurements=measurements,
    )


def test_a_picture_is_drawn_once_and_then_pointed_to():
    cell = Figure.of_svg(b"<svg/>", "Cell", "One edge.")
    page = Page(render([_section("one", [cell]), _section("two", [cell])]))
    assert len(page.all("img")) == 1
    assert "Cell: drawn in one ." in page.text
    assert [link["href"] for link in page.all("a")].count("#run-1") == 2


def test_a_model_without_accuracies_has_no_row():
    found = [
        Measurement("1", "a.keras", "clean", "90%"),
        Measurement("1", "a.keras", "curvature", "3"),
        Measurement("2", "search", "curvature", "4"),
    ]
    page = Page(render([_section("one", measurements=found)]))
    assert "curvature a.keras 90% 3 Fit" in page.text
    page = Page(render([_section("one", measurements=found[2:])]))
    assert "All models" not in page.text


def test_every_section_concludes(path):
    text = path.read_text("utf-8")
    assert text.count('<p class="conclusion">') == text.count("<section") == 4


@pytest.fixture(scope="module")
def browse(path):
    """Runs a browser on the page, without a window."""
    found = [program for program in map(shutil.which, BROWSERS) if program]
    if not found:
        pytest.skip("there is no Chromium or Chrome")
    common = [found[0], "--headless=new", "--no-sandbox", "--disable-gpu"]

    def run(*options, path=path):
        command = [*common, *options, path.as_uri()]
        return subprocess.run(command, capture_output=True, timeout=120, check=True)

    return run


def test_a_browser_shows_all_kinds_of_pictures(browse, tmp_path):
    browse(f"--screenshot={tmp_path / 'page.png'}", "--window-size=1200,6000")
    pixels = np.round(imread(tmp_path / "page.png")[..., :3] * 255)
    # The painted ones in full, and the box of a skip connection in the drawn cells.
    for colour, least in (*((c, 192 * 48) for c in COLOURS.values()), (SKIP, 500)):
        assert (np.abs(pixels - colour).max(-1) <= 2).sum() >= least


SKIP = (0xCD, 0xEE, 0xE2)


def test_a_browser_understands_the_page_as_it_is_written(browse, page):
    seen = Page(browse("--dump-dom").stdout.decode())
    assert [tag for tag, _ in seen.tags] == [tag for tag, _ in page.tags]
    assert seen.text == page.text


@pytest.fixture(scope="module")
def crowded(workdirs):
    """A page whose models have all numbers that `make report` measures."""
    ball = "Linf, epsilon 8/255"
    attacks = [
        f"{name}, {ball}"
        for name in ("pgd20", "autoattack", "all of fgsm + pgd20 + autoattack")
    ]
    quantities = ("clean", "PGD-20, epsilon 0.0314 (fit)", f"fgsm, {ball}", *attacks)
    share = "49.17% (47.58% to 49.72%)"
    found = [
        Measurement(model, f"runs/digits_{model}/model.keras", name, share)
        for model in ("standard", "adversarial")
        for name in (*quantities, "top eigenvalue")
    ]
    sections = [read_section(workdir) for workdir in workdirs]
    return render([_section("one", measurements=found), *sections[::2]])


@pytest.mark.parametrize("width", [400, 1300, 1900])
def test_the_page_fits_a_window_and_the_table_of_models_a_wide_one(
    browse, crowded, tmp_path, width
):
    # In a frame, as no window is narrower than 500 pixels.
    script = """<script>onload = () => { const seen = frames[0].document
      const wide = it => it.scrollWidth > it.clientWidth
      document.title = [seen.documentElement, seen.querySelector(".models")].map(wide)
    }</script>"""
    frame = f"<iframe srcdoc='{escape(crowded)}' width={width}></iframe>"
    probe = tmp_path / "probe.html"
    probe.write_text(f"<meta charset='utf-8'><title></title>{frame}{script}", "utf-8")
    dom = browse("--dump-dom", path=probe).stdout.decode()
    assert f"<title>false,{str(width < 1300).lower()}</title>" in dom
