"""What an inspection writes: results, figures, TensorBoard."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from advrush_tf.errors import UserError, one_line
from advrush_tf.figures import architectures as architecture_figures
from advrush_tf.figures import curvature as curvature_figures
from advrush_tf.figures import surfaces as surface_figures
from advrush_tf.figures.search import draw_alphas, draw_history
from advrush_tf.files import write_json, write_text
from advrush_tf.landscape.architectures import SampledGenotype
from advrush_tf.landscape.spectrum import mean_spectra
from advrush_tf.runs.inspection import ModelCurvature, as_json, markdown
from advrush_tf.runs.landscape_settings import LandscapeSettings
from advrush_tf.search.history import read_history
from advrush_tf.statistics import RankCorrelation, rank_correlation

RESULTS, TABLE = "inspection.json", "inspection.md"
_COMPARED = ("top_eigenvalue", "penalty", "gradient_norm", "clean")


def write_results(
    settings: LandscapeSettings,
    models: Mapping[str, ModelCurvature],
    size: int,
    samples: Sequence[SampledGenotype],
    found: SampledGenotype | None,
    workdir: Path,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Writes all that was found; inspection.json last, which marks the end.

    Args:
        settings: of the inspection.
        models: what was found of each model, by its name in figures.
        size: number of an image's values.
        samples: of the random genotypes, none if there were none.
        found: the search's own genotype, measured as they were.
        workdir: receives the files.
        say: receives the lines for the user.

    Returns:
        What inspection.json holds.

    Raises:
        OSError: a file could not be written.
    """
    correlations = _correlations(samples, settings.seed)
    results = as_json(settings, models, samples, found, correlations)
    pictures = _draw(settings, models, size, workdir)
    if samples:
        pictures["architectures"] = architecture_figures.draw_architectures(
            samples,
            found,
            correlations.get("top_eigenvalue"),
            workdir / "architectures.png",
        )
    table = markdown(results)
    write_text(workdir / TABLE, table + "\n")
    _write_tensorboard(models, samples, table, pictures, workdir / "tensorboard")
    write_json(workdir / RESULTS, results)
    tell(results, workdir, say)
    return results


def _correlations(
    samples: Sequence[SampledGenotype], seed: int
) -> dict[str, RankCorrelation]:
    robust = [sample.robust for sample in samples]
    correlations = {}
    for name in _COMPARED:
        # There is none where all have the same robust accuracy.
        with contextlib.suppress(ValueError):
            values = [getattr(sample, name) for sample in samples]
            correlations[name] = rank_correlation(values, robust, seed)
    return correlations


def _draw(
    settings: LandscapeSettings,
    models: Mapping[str, ModelCurvature],
    size: int,
    workdir: Path,
) -> dict[str, np.ndarray]:
    curvatures = {name: model.curvature for name, model in models.items()}
    return {
        "curvature": curvature_figures.draw_curvature(
            curvatures, workdir / "curvature.png"
        ),
        "spectra": curvature_figures.draw_spectra(
            mean_spectra(curvatures), workdir / "spectra.png"
        ),
        "eigenvalues": curvature_figures.draw_counts(
            curvatures, size, workdir / "eigenvalues.png"
        ),
        "surfaces": surface_figures.draw_surfaces(
            {name: model.surface for name, model in models.items()},
            workdir / "surfaces.png",
        ),
        "cuts": surface_figures.draw_cuts(
            {name: model.cut for name, model in models.items()},
            settings.epsilon,
            workdir / "cuts.png",
        ),
    }


def _write_tensorboard(
    models: Mapping[str, ModelCurvature],
    samples: Sequence[SampledGenotype],
    table: str,
    pictures: Mapping[str, np.ndarray],
    folder: Path,
) -> None:
    writer = tf.summary.create_file_writer(str(folder))
    with writer.as_default(0):
        for model, inspected in models.items():
            for name, values in inspected.curvature.quantities.items():
                tf.summary.scalar(f"mean {name}/{model}", values.mean())
                tf.summary.histogram(f"{name}/{model}", values)
        tf.summary.text("inspection", table)
        for name, picture in pictures.items():
            tf.summary.image(name, picture[np.newaxis])
        for step, sample in enumerate(samples):
            tf.summary.scalar("sampled/robust accuracy", sample.robust, step)
            tf.summary.scalar("sampled/top eigenvalue", sample.top_eigenvalue, step)
    writer.close()


def draw_search(
    run: Path, name: str, workdir: Path, say: Callable[[str], None]
) -> None:
    """Draws the history of a search into a folder.

    Args:
        run: the search's workdir.
        name: what the figures' names have after "search_".
        workdir: receives the figures, also in tensorboard/; made if it is not there.
        say: receives the lines for the user.

    Raises:
        UserError: the search's files are damaged.
        OSError: a figure could not be written.
    """
    history = read_history(run)
    workdir.mkdir(parents=True, exist_ok=True)
    stem = f"search_{name}"
    try:
        pictures = {f"{stem}/history": draw_history(history, workdir / f"{stem}.png")}
        for kind in ("normal", "reduce"):
            path = workdir / f"{stem}_alphas_{kind}.png"
            pictures[f"{stem}/alphas_{kind}"] = draw_alphas(history, kind, path)
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"The history in {run} is damaged ({one_line(error)}); copy it again."
        ) from None
    writer = tf.summary.create_file_writer(str(workdir / "tensorboard"))
    with writer.as_default(0):
        for name, picture in pictures.items():
            tf.summary.image(name, picture[np.newaxis])
    writer.close()
    written = ", ".join(str(workdir / f"{stem}{end}.png") for end in _ENDS)
    say(f"History      of {run}: {written}")


_FIGURES = ["curvature", "spectra", "eigenvalues", "surfaces", "cuts", "architectures"]
_ENDS = ("", "_alphas_normal", "_alphas_reduce")


def tell(results: Mapping[str, Any], workdir: Path, say: Callable[[str], None]) -> None:
    """Says what was found and where it is.

    Args:
        results: what inspection.json holds.
        workdir: where everything was written.
        say: receives the lines.
    """
    say(f"\n{markdown(results)}\n")
    say(f"Results      {workdir / RESULTS}, {workdir / TABLE}")
    for name in _FIGURES:
        if (path := workdir / f"{name}.png").exists():
            say(f"             {path}")
    say(f"\nNext: tensorboard --logdir {workdir / 'tensorboard'}")
