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


def texts_of(figure):
    """All that is written in a figure, but for what lies aslant."""
    texts = [figure._suptitle, figure._supxlabel, figure._supylabel]
    for axes in figure.axes:
        for part in (axes, *axes.child_axes):
            texts += _texts_of_axes(part)
    for legend in (*figure.legends, *(axes.get_legend() for axes in figure.axes)):
        texts += [legend.get_title(), *legend.get_texts()] if legend else []
    return [text for text in texts if text and text.get_rotation() % 90 == 0]


def _texts_of_axes(axes):
    if not axes.axison:
        return [axes.title]
    labels = [axes.xaxis.label, axes.yaxis.label, *ticks_of(axes.xaxis)]
    return [axes.title, *axes.texts, *labels, *ticks_of(axes.yaxis)]


def ticks_of(axis):
    """The labels of an axis, without those beyond its limits."""
    low, high = sorted(axis.get_view_interval())
    ticks = axis.get_major_ticks() + axis.get_minor_ticks()
    ticks = [tick for tick in ticks if low <= tick.get_loc() <= high]
    return [text for tick in ticks for text in (tick.label1, tick.label2)]


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
