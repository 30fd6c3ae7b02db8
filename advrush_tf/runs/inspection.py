"""The results of an inspection: each model's numbers, and the files of them all."""

import contextlib
import dataclasses
import importlib.metadata
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from scipy import stats

from advrush_tf.figures import architectures as architecture_figures
from advrush_tf.figures import curvature as curvature_figures
from advrush_tf.figures import surfaces as surface_figures
from advrush_tf.files import (
    json_copy,
    read_arrays,
    write_arrays,
    write_json,
    write_text,
)
from advrush_tf.landscape.architectures import SampledGenotype
from advrush_tf.landscape.meter import Curvature
from advrush_tf.landscape.spectrum import mean_spectra
from advrush_tf.landscape.surfaces import Cut, Surface
from advrush_tf.runs.landscape_settings import LandscapeSettings
from advrush_tf.runs.table import Table, mean_text
from advrush_tf.runs.tensorboard import event_writer
from advrush_tf.statistics import RankCorrelation, rank_correlation
from advrush_tf.version import __version__

RESULTS, TABLE = "inspection.json", "inspection.md"
_COMPARED = ("top_eigenvalue", "penalty", "gradient_norm", "clean")
_FIGURES = ["curvature", "spectra", "eigenvalues", "surfaces", "cuts", "architectures"]
_LIBRARIES = ("keras", "tensorflow", "numpy", "scipy")
_RESAMPLES = 2000
_BATCH = 50  # resamples at a time, which bounds the memory


@dataclasses.dataclass(frozen=True)
class ModelCurvature:
    """The curvature of one model's loss, and the loss around its images.

    Attributes:
        right: (images,), bool, correct on the clean image.
        curvature: curvature at each image.
        surface: mean loss on a plane.
        cut: loss along the model's own attack.
    """

    right: np.ndarray
    curvature: Curvature
    surface: Surface
    cut: Cut

    def save(self, path: Path, of: Mapping[str, Any]) -> None:
        """Writes an .npz file, whole or not at all.

        Args:
            path: the file.
            of: what it is of, as JSON types.
        """
        arrays = {
            f"{part}/{name}": array
            for part in _PARTS
            for name, array in vars(getattr(self, part)).items()
        }
        text = np.asarray(json.dumps(of, sort_keys=True))
        write_arrays(path, of=text, right=self.right, **arrays)

    @classmethod
    def load(cls, path: Path, of: Mapping[str, Any]) -> "ModelCurvature":
        """Reads what `save` wrote.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is damaged, or of something else.
        """
        try:
            arrays = read_arrays(path)
            if arrays["of"].item() != json.dumps(of, sort_keys=True):
                raise ValueError("it is of another model or run")
            parts = {
                part: kind(
                    **{
                        field.name: arrays[f"{part}/{field.name}"]
                        for field in dataclasses.fields(kind)
                    }
                )
                for part, kind in _PARTS.items()
            }
            return cls(arrays["right"], **parts)
        except (ValueError, LookupError) as error:
            raise ValueError(f"{path} is damaged ({error})") from None


_PARTS: Mapping[str, Any] = {"curvature": Curvature, "surface": Surface, "cut": Cut}


def summary(values: np.ndarray, seed: int) -> dict[str, float | None]:
    """Returns the mean with its 95 % bootstrap interval, and the quartiles.

    Args:
        values: (images,); a single one has no interval.
        seed: seed of the resampling.
    """
    mean = float(values.mean())
    low = high = mean if len(values) > 1 else None
    if np.ptp(values) > 0:
        bootstrap = stats.bootstrap(
            (values,),
            np.mean,
            n_resamples=_RESAMPLES,
            batch=_BATCH,
            method="percentile",
            rng=np.random.default_rng(seed),
        )
        low, high = map(float, bootstrap.confidence_interval)
    first, median, third = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
    return {
        "mean": mean,
        "low": low,
        "high": high,
        "first_quartile": first,
        "median": median,
        "third_quartile": third,
    }


def as_json(
    settings: LandscapeSettings,
    models: Mapping[str, ModelCurvature],
    samples: Sequence[SampledGenotype],
    found: SampledGenotype | None,
    correlations: Mapping[str, RankCorrelation],
    noted: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns all results, in JSON's types.

    Args:
        settings: settings of the inspection.
        models: by their names in figures, in the order of `settings.model`.
        samples: the measured random genotypes.
        found: the search's genotype, measured with the same shared weights.
        correlations: of each quantity with the robust accuracy, over the samples.
        noted: entries that are known beforehand: the split, the warnings.
    """
    results: dict[str, Any] = {
        "library": f"advrush_tf {__version__}",
        "versions": {name: importlib.metadata.version(name) for name in _LIBRARIES},
        "settings": settings.to_dict(),
        **noted,
        "models": {
            name: _model(path, inspected, settings.seed)
            for path, (name, inspected) in zip(
                settings.model, models.items(), strict=True
            )
        },
    }
    if samples:
        results["architectures"] = {
            "count": len(samples),
            "rank_correlations": {
                name: dataclasses.asdict(correlation)
                for name, correlation in correlations.items()
            },
            "found": found.to_dict() if found else None,
            "sampled": [sample.to_dict() for sample in samples],
        }
    return json_copy(results)


def _model(path: str, inspected: ModelCurvature, seed: int) -> dict[str, Any]:
    curvature, cut = inspected.curvature, inspected.cut
    clean, attacked = np.interp((0, 1), cut.steps, cut.losses.mean(0))
    return {
        "path": path,
        "images": len(inspected.right),
        "accuracy": float(inspected.right.mean()),
        "curvature": {
            name: summary(values, seed) for name, values in curvature.quantities.items()
        },
        # How far a reported eigenvalue is at most from one of the Hessian's.
        "largest_eigenvalue_error": float(curvature.eigenvalue_bounds[:, 0].max()),
        # Of the mean, since traces are estimates.
        "trace_error": curvature.mean_trace_error,
        "loss_on_its_attack": {"clean": clean, "attacked": attacked},
    }


def tables(results: Mapping[str, Any]) -> list[Table]:
    """Returns the curvature of the models and the rank correlations of genotypes.

    Args:
        results: what `as_json` gives.
    """
    found = [_curvatures(results["models"])]
    if architectures := results.get("architectures"):
        found.append(_rank_correlations(architectures))
    return found


def _curvatures(models: Mapping[str, Any]) -> Table:
    names = list(dict.fromkeys(n for m in models.values() for n in m["curvature"]))
    rows = [
        (
            name,
            f"{model['accuracy']:.2%}",
            *(mean_text(model["curvature"][quantity]) for quantity in names),
            # Older inspections have none.
            f"{model['trace_error']:.1g}" if "trace_error" in model else "",
        )
        for name, model in models.items()
    ]
    spaced = (name.replace("_", " ") for name in names)
    head = ("model", "clean accuracy", *spaced, "error of the mean trace")
    return Table("Curvature: mean over the images, with 95 % intervals", head, rows)


def _rank_correlations(architectures: Mapping[str, Any]) -> Table:
    rows = [
        (
            name.replace("_", " "),
            f"{found['rho']:.2f} ({found['low']:.2f} to {found['high']:.2f})",
        )
        for name, found in architectures["rank_correlations"].items()
    ]
    return Table(
        f"Rank correlation with the robust accuracy, over {architectures['count']} "
        "random genotypes with the supernet's weights",
        ("quantity", "Spearman's rho, with 95 % interval"),
        rows or [("none is defined", "all have the same robust accuracy")],
    )


def warnings(results: Mapping[str, Any]) -> list[str]:
    """Returns the reasons not to trust an inspection, with their codes and models.

    Args:
        results: what `as_json` gives; older inspections have none.
    """
    return [
        f"({', '.join(filter(None, (one['code'], one['model'])))}): {one['sentence']}"
        for one in results.get("warnings", ())
    ]


def markdown(results: Mapping[str, Any]) -> str:
    """Returns the results as Markdown: tables and warnings.

    Args:
        results: what `as_json` gives.
    """
    parts = [table.markdown() for table in tables(results)]
    parts += [f"**Warning** {warning}" for warning in warnings(results)]
    return "\n\n".join(parts)


def write_results(
    settings: LandscapeSettings,
    models: Mapping[str, ModelCurvature],
    size: int,
    samples: Sequence[SampledGenotype],
    found: SampledGenotype | None,
    noted: Mapping[str, Any],
    workdir: Path,
    log: Callable[[str], None],
) -> dict[str, Any]:
    """Writes the results, whatever then becomes of the figures.

    The table comes last and marks the inspection's end.

    Args:
        settings: settings of the inspection.
        models: results of each model, by its name in figures.
        size: number of values of an image.
        samples: the measured random genotypes, if any.
        found: the search's genotype, measured in the same way.
        noted: see `as_json`.
        workdir: receives the files.
        log: receives the lines for the user.

    Returns:
        The content of inspection.json.

    Raises:
        OSError: a file could not be written.
    """
    correlations = _correlations(samples, settings.seed)
    results = as_json(settings, models, samples, found, correlations, noted)
    write_json(workdir / RESULTS, results)
    pictures = _draw(settings, models, size, workdir)
    if samples:
        pictures["architectures"] = architecture_figures.draw_architectures(
            samples,
            found,
            correlations.get("top_eigenvalue"),
            workdir / "architectures.png",
        )
    table = markdown(results)
    _write_tensorboard(models, samples, table, pictures, workdir / "tensorboard")
    write_text(workdir / TABLE, table + "\n")
    print_summary(results, workdir, log)
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
            str(settings.epsilon),
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
    with event_writer(folder):
        for model, inspected in models.items():
            for name, values in inspected.curvature.quantities.items():
                tf.summary.scalar(f"mean {name}/{model}", values.mean())
                tf.summary.histogram(f"{name}/{model}", values)
            error = inspected.curvature.mean_trace_error
            tf.summary.scalar(f"error of the mean trace/{model}", error)
        tf.summary.text("inspection", table)
        for name, picture in pictures.items():
            tf.summary.image(name, picture[np.newaxis])
        for step, sample in enumerate(samples):
            tf.summary.scalar("sampled/robust accuracy", sample.robust, step)
            tf.summary.scalar("sampled/top eigenvalue", sample.top_eigenvalue, step)


def print_summary(
    results: Mapping[str, Any], workdir: Path, log: Callable[[str], None]
) -> None:
    """Prints the results and the paths of their files.

    Args:
        results: what inspection.json holds.
        workdir: folder of the inspection.
        log: receives the lines.
    """
    log(f"\n{markdown(results)}\n")
    log(f"Results      {workdir / RESULTS}, {workdir / TABLE}")
    for name in _FIGURES:
        if (path := workdir / f"{name}.png").exists():
            log(f"             {path}")
