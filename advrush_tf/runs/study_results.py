"""The numbers of a study: of each network, over the seeds, and what they can show."""

import contextlib
import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from advrush_tf.files import json_copy
from advrush_tf.genotypes.genotype import Genotype
from advrush_tf.runs import evaluation_report, fit_record, inspection
from advrush_tf.runs.study_progress import read_report
from advrush_tf.runs.study_settings import StudySettings
from advrush_tf.search.history import is_search, read_history
from advrush_tf.statistics import (
    mean_interval,
    paired_difference,
    pairs_needed,
    rank_correlation,
)
from advrush_tf.version import __version__

# Files of the folder of a fitted network.
NETWORK, GENOTYPE = "network.json", "genotype.json"
# In the former, the number of the candidate that was kept of several.
SELECTED = "selected"
COMPARED = ("clean", "robust")
CURVATURES = ("penalty", "top_eigenvalue")
SIZES = ("parameters", "multiply_adds")
_LEVEL = 0.05
# Sizes that differ by no more are taken for equal.
_ALIKE = 0.05


class Row(NamedTuple):
    """Where the results of an entry, a seed and an objective are.

    Attributes:
        folder: holds `network`, `attack_<objective>` and so on.
    """

    entry: str
    seed: int
    objective: str
    folder: Path


def as_json(
    settings: StudySettings, rows: Sequence[Row], failures: Mapping[str, str]
) -> dict[str, Any]:
    """Returns what is known so far, in JSON's types.

    Args:
        settings: of the study.
        rows: of all its results, whether they are there yet or not.
        failures: by the stage's name, why it came to no end.
    """
    runs = [_measured(row) for row in rows if _is_current(row, failures)]
    others = settings.entries[1:]
    comparisons = len(settings.objectives) * len(others) * len(COMPARED)
    results: dict[str, Any] = {
        "library": f"advrush_tf {__version__}",
        "settings": settings.to_dict(),
        "entries": settings.entries,
        "seeds": settings.seeds,
        "objectives": settings.objectives,
        "comparisons": comparisons,
        "runs": runs,
        "searches": _searches(settings, rows),
        "means": [],
        "differences": [],
        "rank_correlations": [],
        "failures": failures,
    }
    for objective in settings.objectives:
        chosen = [run for run in runs if run["objective"] == objective]
        results["means"] += _means(settings.entries, objective, chosen)
        results["differences"] += [
            _difference(
                settings.entries[0], other, objective, name, chosen, comparisons
            )
            for other in others
            for name in COMPARED
        ]
        results["rank_correlations"] += _correlations(objective, chosen)
    results["differences"] = [row for row in results["differences"] if row]
    return json_copy({**results, "conclusions": _conclusions(results)})


def _is_current(row: Row, failures: Mapping[str, str]) -> bool:
    """Returns whether the present network has been attacked, not one before it."""
    folder, stage = row.folder, f"attack_{row.objective}"
    failed = f"{folder.parent.name}/{folder.name}/{stage}" in failures
    return not failed and _report(row, stage, evaluation_report.RESULTS) is not None


def _report(row: Row, stage: str, file: str) -> Any:
    """Returns the report of a stage on the fitted network; None if there is none."""
    fit = row.folder / f"fit_{row.objective}" / fit_record.REPORT
    path = row.folder / stage / file
    if not (fit.exists() and path.exists()):
        return None
    fitted = read_report(fit)["sha256"][fit_record.BEST]
    report = read_report(path)
    return report if fitted in report["settings"]["sha256"] else None


def _measured(row: Row) -> dict[str, Any]:
    """Returns the numbers of one fitted network."""
    results = _report(row, f"attack_{row.objective}", evaluation_report.RESULTS)
    inspected = _report(row, f"landscape_{row.objective}", inspection.RESULTS) or {}
    fitted = read_report(row.folder / f"fit_{row.objective}" / fit_record.REPORT)
    found = {
        **{"entry": row.entry, "seed": row.seed, "objective": row.objective},
        **read_report(row.folder / "network" / NETWORK),
        "images": results["images"],
        "clean": results["clean"]["accuracy"],
        "attacks": {
            one["attack"]: one["accuracy"]
            for one in results["attacks"]
            if one["epsilon"]["given"] == results["epsilon"]["given"]
        },
        "robust": results["robust"]["accuracy"],
        "warnings": [
            one["sentence"]
            for report in (results, fitted, inspected)
            for one in report.get("warnings", ())
        ],
    }
    for model in inspected.get("models", {}).values():
        curvature = model["curvature"]
        found |= {name: curvature[name]["mean"] for name in CURVATURES}
    return found


def _searches(settings: StudySettings, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Returns how far each search went, and how its cells differ from others."""
    folders = {row[:2]: row.folder for row in rows}
    genotypes = {
        key: Genotype.load(path)
        for key, folder in folders.items()
        if (path := folder / "network" / GENOTYPE).exists()
    }
    found = []
    for (entry, seed), genotype in genotypes.items():
        first = genotypes.get((settings.entries[0], seed))
        seeds = [
            other
            for key, other in genotypes.items()
            if key[0] == entry and key[1] != seed
        ]
        folder = folders[entry, seed]
        number = read_report(folder / "network" / NETWORK).get(SELECTED, 0)
        found.append(
            {
                **{"entry": entry, "seed": seed},
                "operations": genotype.operation_counts(),
                "edges": 2 * len(genotype.normal),
                "other_edges": first and differing_edges(genotype, first),
                "other_edges_of_seeds": [
                    differing_edges(genotype, other) for other in seeds
                ],
                **_of_alphas(folder / f"search_{number}"),
            }
        )
    return found


def _of_alphas(search: Path) -> dict[str, float | None]:
    """Returns how far a search's alphas are from where all operations weigh the same.

    The entropy of an edge's weights, that of its operations without `none`, of which a
    genotype's are, and the weight of `none`; means over the edges, None for no search.
    """
    names = ("entropy", "largest_entropy", "choice", "largest_choice", "none")
    if not is_search(search):
        return dict.fromkeys(names)
    history = read_history(search)
    weights = np.concatenate([weights[-1] for weights in history.weights.values()])
    choices = weights[:, [name != "none" for name in history.primitives]]
    count = choices.shape[1]
    kept = choices.sum(1, keepdims=True)
    entropies = [
        -np.sum(shares * np.log(np.maximum(shares, np.finfo(float).tiny)), 1).mean()
        for shares in (weights, choices / np.maximum(kept, np.finfo(float).tiny))
    ]
    numbers = (
        *(entropies[0], math.log(weights.shape[1])),
        *(entropies[1], math.log(count)),
        1 - kept.mean(),
    )
    return dict(zip(names, map(float, numbers), strict=True))


def differing_edges(genotype: Genotype, other: Genotype) -> int | None:
    """Returns how many edges of both cells have no equal in another genotype.

    None where the cells have other numbers of nodes. An edge is a node, an operation
    and the state that it reads.
    """
    if genotype.num_nodes != other.num_nodes:
        return None
    sets = [
        {
            (kind, index // 2, *edge)
            for kind in ("normal", "reduce")
            for index, edge in enumerate(getattr(one, kind))
        }
        for one in (genotype, other)
    ]
    return len(sets[0] - sets[1])


def _means(
    entries: Sequence[str], objective: str, runs: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Returns the means over the seeds, a row an entry."""
    rows = []
    for entry in entries:
        own = [{**run, **run["attacks"]} for run in runs if run["entry"] == entry]
        # Curvatures may still be missing.
        names = (
            [n for n in own[0] if all(_is_number(run.get(n)) for run in own)]
            if own
            else []
        )
        row: dict[str, Any] = {"objective": objective, "entry": entry}
        for name in names:
            if name not in ("seed", "images", SELECTED):
                accuracy = name in COMPARED or name in own[0]["attacks"]
                # All other quantities are 0 or more too, but for eigenvalues.
                low = -math.inf if name == "top_eigenvalue" else 0.0
                bounds = low, 1.0 if accuracy else math.inf
                row[name] = dataclasses.asdict(
                    mean_interval([run[name] for run in own], *bounds)
                )
        if own:
            rows.append(row)
    return rows


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _difference(
    first: str,
    other: str,
    objective: str,
    name: str,
    runs: Sequence[Mapping[str, Any]],
    comparisons: int,
) -> dict[str, Any]:
    """Returns the first entry's lead over another; empty where no seed has both."""
    values = {
        entry: {run["seed"]: run[name] for run in runs if run["entry"] == entry}
        for entry in (first, other)
    }
    seeds = sorted(values[first].keys() & values[other].keys())
    if not seeds:
        return {}
    x, y = ([values[entry][seed] for seed in seeds] for entry in (first, other))
    found = paired_difference(x, y)
    shown = found.p <= _LEVEL / comparisons
    needed = None
    if found.deviation is not None:
        needed = pairs_needed(found.mean, found.deviation, comparisons)
    if needed and not shown:
        needed = max(needed, found.count + 1)
    pairs = {
        entry: [run for run in runs if run["entry"] == entry and run["seed"] in seeds]
        for entry in (first, other)
    }
    return {
        **{"objective": objective, "entry": other, "quantity": name},
        **dataclasses.asdict(found),
        "shown": shown,
        "seeds_needed": needed,
        # Of the first entry's networks and of the other's, means over these seeds.
        "sizes": {
            size: [float(np.mean([run[size] for run in own])) for own in pairs.values()]
            for size in SIZES
        },
    }


def _correlations(
    objective: str, runs: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Returns how curvature ranks with robust accuracy, over entries and seeds."""
    rows = []
    for name in CURVATURES:
        both = [(run[name], run["robust"]) for run in runs if name in run]
        # There is none of few networks, or of equal accuracies.
        with contextlib.suppress(ValueError):
            found = rank_correlation(*np.reshape(both, (-1, 2)).T)
            rows.append(
                {"objective": objective, "quantity": name, **dataclasses.asdict(found)}
            )
    return rows


def _conclusions(results: Mapping[str, Any]) -> list[str]:
    """Returns sentences on what the differences show, and what they cannot."""
    first, count = results["entries"][0], results["comparisons"]
    rows = results["differences"]
    sentences = [_in_all(rows, count)] if count else []
    for row in rows:
        side = "higher" if row["mean"] >= 0 else "lower"
        text = (
            f"After {row['objective']}, {first}'s {row['quantity']} accuracy is "
            f"{100 * abs(row['mean']):.2f} percentage points {side} than "
            f"{row['entry']}'s{_of_sizes(row['sizes'])} "
            f"(p = {row['p']:.3g} over {counted(row['count'], 'seed')})"
        )
        if row["shown"]:
            text += ": this is shown."
        elif row["count"] < 2:
            text += ": one seed shows nothing."
        elif row["seeds_needed"] is None:
            text += (
                ": this is not shown; were it and its spread as measured, more than "
                "1,000 seeds would be needed."
            )
        else:
            text += (
                ": this is not shown; were it and its spread as measured, Student's "
                f"test would show it four times in five with {row['seeds_needed']} "
                "seeds."
            )
        sentences.append(text)
    compared = {(row["objective"], row["entry"]) for row in rows}
    sentences += [
        f"After {objective}, {first} and {other} cannot be compared: no seed has both."
        for objective in results["objectives"]
        for other in results["entries"][1:]
        if (objective, other) not in compared
    ]
    return sentences


def _in_all(rows: Sequence[Mapping[str, Any]], comparisons: int) -> str:
    """Returns how many of the differences are shown, and from how many seeds any is."""
    shown = sum(row["shown"] for row in rows)
    level = _LEVEL / comparisons
    fewest = math.ceil(math.log2(2 / level))
    seeds = max((row["count"] for row in rows), default=0)
    text = (
        f"{shown} of {comparisons} differences are shown: each needs p of {level:.2g} "
        "or less for 5 % in all"
    )
    if seeds < fewest:
        text += (
            f", and with {counted(seeds, 'seed')} the permutation test gives no less "
            f"than {min(2 / 2**seeds, 1):.2g}, whatever the differences are; from "
            f"{fewest} seeds on it can show one"
        )
    return f"{text}."


def counted(number: int, noun: str) -> str:
    """Returns a number with its noun, in the plural unless it is 1."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _of_sizes(sizes: Mapping[str, Sequence[float]]) -> str:
    """Returns how many times as large the first entry's networks are, if they are."""
    parts = [
        f"{first / other:.2f} times the {name.replace('_', '-')}"
        for name, (first, other) in sizes.items()
        if abs(first / other - 1) > _ALIKE
    ]
    return f", at {' and '.join(parts)}" if parts else ""
