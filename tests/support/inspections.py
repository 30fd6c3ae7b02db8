"""What tests take for the outcome of an inspection."""

import numpy as np

from advrush_tf.landscape.meter import Curvature
from advrush_tf.landscape.surfaces import Cut, Surface
from advrush_tf.runs.inspection import ModelCurvature


def inspected(seed=0, images=6, top=2, steps=4):
    """A model's numbers, drawn at random."""
    rng = np.random.default_rng(seed)
    sizes = np.sort(rng.uniform(1, 100, (images, steps)))
    weights = rng.dirichlet(np.ones(steps), images)
    curvature = Curvature(
        gradient_norms=rng.uniform(0.1, 1, images),
        penalties=rng.uniform(0.1, 1, images),
        eigenvalues=sizes[:, ::-1][:, :top],
        eigenvalue_bounds=np.full((images, top), 1e-3),
        traces=sizes.sum(-1),
        trace_errors=np.full(images, 0.5),
        ritz_values=sizes,
        ritz_weights=weights,
    )
    axis = np.linspace(-0.1, 0.1, 5)
    surface = Surface(axis, axis, rng.uniform(0, 3, (5, 5)))
    cut = Cut(np.arange(-1.0, 3.0), rng.uniform(0, 3, (images, 4)))
    return ModelCurvature(rng.random(images) < 0.5, curvature, surface, cut)
