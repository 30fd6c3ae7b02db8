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
