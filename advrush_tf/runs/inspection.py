"""What an inspection finds: of each model in a file, and in all as JSON."""

import dataclasses
import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from advrush_tf.files import json_copy, replacing
from advrush_tf.landscape.architectures import SampledGenotype
from advrush_tf.landscape.meter import Curvature
from advrush_tf.landscape.surfaces import Cut, Surface
from advrush_tf.runs.landscape_settings import LandscapeSettings
from advrush_tf.runs.table import Table, mean_text
from advrush_tf.statistics import RankCorrelation
from advrush_tf.version import __version__

_LIBRARIES = ("keras", "tensorflow", "numpy", "scipy")
_RESAMPLES = 2000
_BATCH = 50  # resamples at a time, which bounds the memory


@dataclasses.dataclass(frozen=True)
class ModelCurvature:
    """What was found of a model.

    Attributes:
        right: (images,), bool: whether it classifies the clean image rightly.
        curvature: of each image.
        surface: its mean loss on a plane.
        cut: its loss along its own attack.
    """

    right: np.ndarray
    curvature: Curvature
    surface: Surface
    cut: Cut

    def save(self, path: Path) -> None:
        """Writes everything in one step, as an .npz file.

        Raises:
            OSError: it could not be written.
        """
        arrays = {
            f"{part}/{name}": array
            for part in _PARTS
            for name, array in vars(getattr(self, part)).items()
        }
        with replacing(path) as file:
            np.savez(file, right=self.right, **arrays)

    @classmethod
    def load(cls, path: Path) -> "ModelCurvature":
        """Reads what `save` wrote.

        Raises:
            ValueError: the file is damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
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
        except Exception as error:  # A damaged archive raises nearly everything.
            raise ValueError(f"{path} is damaged ({error})") from None


_PARTS: Mapping[str, Any] = {"curvature": Curvature, "surface": Surface, "cut": Cut}


def summary(values: np.ndarray, seed: int) -> dict[str, float]:
    """Mean with its 95 % bootstrap interval, and quartiles.

    Args:
        values: (images,).
        seed: of the resampling.
    """
    low = high = mean = float(values.mean())
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
) -> dict[str, Any]:
    """All results, in JSON's types.

    Args:
        settings: of the inspection.
        models: by their names in figures, in the order of `settings.model`.
        samples: of the random genotypes.
        found: the search's own genotype, with the same shared weights.
        correlations: of a quantity with the robust accuracy, over the samples.
    """
    results: dict[str, Any] = {
        "library": f"advrush_tf {__version__}",
        "versions": {name: importlib.metadata.version(name) for name in _LIBRARIES},
        "settings": settings.to_dict(),
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
        "loss_on_its_attack": {"clean": clean, "attacked": attacked},
    }


def tables(results: Mapping[str, Any]) -> list[Table]:
    """Returns the curvature of the models and what it says of random genotypes.

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
        )
        for name, model in models.items()
    ]
    head = ("model", "clean accuracy", *(name.replace("_", " ") for name in names))
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


def markdown(results: Mapping[str, Any]) -> str:
    """Returns the results as Markdown tables.

    Args:
        results: what `as_json` gives.
    """
    return "\n\n".join(table.markdown() for table in tables(results))
