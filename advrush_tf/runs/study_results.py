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
    runs = [_measured(row) for row in rows if _attack(row).exists()]
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


def _attack(row: Row) -> Path:
    return row.folder / f"attack_{row.objective}" / evaluation_report.RESULTS


def _measured(row: Row) -> dict[str, Any]:
    """Returns the numbers of one fitted network."""
    results = read_report(_attack(row))
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
        "warnings": [one["sentence"] for one in results["warnings"]],
    }
    stages = {"fit": fit_record.REPORT, "landscape": inspection.RESULTS}
    for stage, file in stages.items():
        path = row.folder / f"{stage}_{row.objective}" / file
        report = read_report(path) if path.exists() else {}
        # Older ones have none.
        found["warnings"] += [one["sentence"] for one in report.get("warnings", ())]
        for model in report.get("models", {}).values():
            curvature = model["curvature"]
            found |= {name: curvature[name]["mean"] for name in CURVATURES}
    return found


def _searches(settings: StudySettings, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Returns how far each search went, and how its cells differ from the first's."""
    found = []
    for row in rows:
        path = row.folder / "network" / GENOTYPE
        if row.objective != settings.objectives[0] or not path.exists():
            continue
        genotype = Genotype.load(path)
        first = next(one for one in rows if one[:2] == (settings.entries[0], row.seed))
        reference = first.folder / "network" / GENOTYPE
        network = read_report(row.folder / "network" / NETWORK)
        search = row.folder / f"search_{network.get(SELECTED, 0)}"
        history = read_history(search) if is_search(search) else None
        found.append(
            {
                **{"entry": row.entry, "seed": row.seed},
                "operations": genotype.operation_counts(),
                "edges": 2 * len(genotype.normal),
                "other_edges": differing_edges(genotype, Genotype.load(reference))
                if reference.exists()
                else None,
                "entropy": history and float(history.metrics["entropy"][-1]),
                "largest_entropy": history and math.log(len(history.primitives)),
            }
        )
    return found


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
                bounds = (0.0, 1.0) if accuracy else ()
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
    needed = None
    if found.deviation is not None:
        needed = pairs_needed(found.mean, found.deviation, comparisons)
    return {
        **{"objective": objective, "entry": other, "quantity": name},
        **dataclasses.asdict(found),
        "seeds_needed": needed,
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
    sentences = []
    for row in results["differences"]:
        shown = row["p"] <= _LEVEL / count
        side = "higher" if row["mean"] >= 0 else "lower"
        text = (
            f"After {row['objective']}, {first}'s {row['quantity']} accuracy is "
            f"{100 * abs(row['mean']):.2f} percentage points {side} than "
            f"{row['entry']}'s{_of_sizes(results['means'], first, row)} "
            f"(p = {row['p']:.3g} over {row['count']} seeds)"
        )
        needed = row["seeds_needed"]
        if shown:
            text += ": this is shown."
        elif row["count"] < 2:
            text += ": one seed shows nothing."
        elif needed is None:
            text += ": this is not shown, and 1,000 seeds would not show it either."
        else:
            text += (
                f": this is not shown; were it and its spread as measured, "
                f"{max(needed, row['count'] + 1)} seeds would show it four times in "
                "five."
            )
        sentences.append(text)
    compared = {(row["objective"], row["entry"]) for row in results["differences"]}
    sentences += [
        f"After {objective}, {first} and {other} cannot be compared: no seed has both."
        for objective in results["objectives"]
        for other in results["entries"][1:]
        if (objective, other) not in compared
    ]
    if count:
        fewest = math.ceil(math.log2(2 * count / _LEVEL))
        sentences.append(
            f"Of {count} comparisons, each needs p of {_LEVEL / count:.2g} or less for "
            "5 % in all; the permutation test can give that from "
            f"{fewest} seeds on."
        )
    return sentences


def _of_sizes(
    means: Sequence[Mapping[str, Any]], first: str, row: Mapping[str, Any]
) -> str:
    """Returns how many times as large the first entry's networks are, if they are."""
    sizes = {
        mean["entry"]: mean for mean in means if mean["objective"] == row["objective"]
    }
    times = {
        name: sizes[first][name]["mean"] / sizes[row["entry"]][name]["mean"]
        for name in ("parameters", "multiply_adds")
    }
    parts = [
        f"{ratio:.2f} times the {name.replace('_', '-')}"
        for name, ratio in times.items()
        if abs(ratio - 1) > _ALIKE
    ]
    return f", at {' and '.join(parts)}" if parts else ""
