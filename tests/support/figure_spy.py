"""What tests see of the figures that are drawn."""

from matplotlib.figure import Figure


def spy_on_figures(monkeypatch):
    """A list that will hold every figure that is made from now on."""
    made = []
    start = Figure.__init__

    def spy(self, *args, **kwargs):
        made.append(self)
        start(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "__init__", spy)
    return made


def assert_legible(texts, figure):
    """Checks that the texts lie within the figure and apart from each other."""
    renderer = figure.canvas.get_renderer()
    texts = [text for text in texts if text.get_text() and text.get_visible()]
    boxes = [text.get_window_extent(renderer) for text in texts]
    assert boxes
    for number, box in enumerate(boxes):
        assert box.x0 >= 0 and box.y0 >= 0, texts[number]
        assert box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, texts[number]
        assert not box.count_overlaps(boxes[:number]), texts[number]
