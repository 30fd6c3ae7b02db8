"""The results of a study: its numbers, what they can show, and their files."""

import contextlib
import dataclasses
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tensorboard.plugins.hparams import api as hp

from advrush_tf.figures.study import draw_study
from advrush_tf.files import json_copy, read_json, write_json, write_text
from advrush_tf.genotypes.genotype import Genotype
from advrush_tf.runs import evaluation_report, inspection
from advrush_tf.runs.run import Log
from advrush_tf.runs.study_settings import StudySettings
from advrush_tf.runs.table import Table
from advrush_tf.runs.tensorboard import event_writer
from advrush_tf.search.history import is_search, read_history
from advrush_tf.statistics import (
    mean_interval,
    paired_difference,
    pairs_needed,
    rank_correlation,
)
from advrush_tf.version import __version__

RESULTS, TABLE, FIGURE = "study.json", "study.md", "study.png"
COMPARED = ("clean", "robust")
_CURVATURES = ("penalty", "top_eigenvalue")
_SIZES = ("init_channels", "parameters", "multiply_adds")
_LEVEL = 0.05


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
    results = read_json(_attack(row))
    found = {
        **{"entry": row.entry, "seed": row.seed, "objective": row.objective},
        **read_json(row.folder / "network" / "network.json"),
        "images": results["images"],
        "clean": results["clean"]["accuracy"],
        "attacks": {one["attack"]: one["accuracy"] for one in results["attacks"]},
        "robust": results["robust"]["accuracy"],
        "warnings": [one["sentence"] for one in results["warnings"]],
    }
    landscape = row.folder / f"landscape_{row.objective}" / inspection.RESULTS
    if landscape.exists():
        (model,) = read_json(landscape)["models"].values()
        curvature = model["curvature"]
        found |= {name: curvature[name]["mean"] for name in _CURVATURES}
    return found


def _searches(settings: StudySettings, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Returns how far each search went, and how its cells differ from the first's."""
    found = []
    for row in rows:
        path = row.folder / "network" / "genotype.json"
        if row.objective != settings.objectives[0] or not path.exists():
            continue
        genotype = Genotype.load(path)
        first = next(one for one in rows if one[:2] == (settings.entries[0], row.seed))
        reference = first.folder / "network" / "genotype.json"
        searches = filter(is_search, sorted(row.folder.glob("search_*")))
        histories = [read_history(search) for search in searches]
        found.append(
            {
                **{"entry": row.entry, "seed": row.seed},
                "operations": genotype.operation_counts(),
                "edges": 2 * len(genotype.normal),
                "other_edges": differing_edges(genotype, Genotype.load(reference))
                if reference.exists()
                else None,
                "entropies": [float(h.metrics["entropy"][-1]) for h in histories],
                "largest_entropy": math.log(len(histories[0].primitives))
                if histories
                else None,
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
            if name not in ("seed", "images"):
                row[name] = dataclasses.asdict(
                    mean_interval([run[name] for run in own])
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
    for name in _CURVATURES:
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
        more = "more" if row["mean"] >= 0 else "less"
        what = {"clean": "accurate", "robust": "robust"}[row["quantity"]]
        text = (
            f"After {row['objective']}, {first} is {abs(row['mean']):.2%} {more} "
            f"{what} than {row['entry']} (p = {row['p']:.3g} over {row['count']} seeds)"
        )
        needed = row["seeds_needed"]
        if shown:
            text += ": this is shown."
        elif row["count"] < 2:
            text += ": one seed shows nothing."
        elif needed is None:
            text += ": this is not shown, and 1,000 seeds would not show it either."
        else:
            text += f": this is not shown; some {needed} seeds would show it."
        sentences.append(text)
    if count:
        fewest = math.ceil(math.log2(2 * count / _LEVEL))
        sentences.append(
            f"Of {count} comparisons, each needs p of {_LEVEL / count:.2g} or less for "
            "5 % in all; the permutation test can give that from "
            f"{fewest} seeds on."
        )
    return sentences


def tables(results: Mapping[str, Any]) -> list[Table]:
    """Returns the means, differences, rank correlations, cells and single runs.

    Args:
        results: what `as_json` gives.
    """
    attacks = list(dict.fromkeys(n for run in results["runs"] for n in run["attacks"]))
    return [
        _mean_table(results["means"], attacks),
        _difference_table(results),
        _correlation_table(results),
        _search_table(results),
        _run_table(results["runs"], attacks),
    ]


def _mean_table(means: Sequence[Mapping[str, Any]], attacks: Sequence[str]) -> Table:
    accuracies = ("clean", *attacks, "robust")
    return Table(
        "Means over the seeds, with Student's 95 % intervals",
        (
            *("entry", "objective", "seeds", *_spaced(_SIZES)),
            *(*accuracies, *_spaced(_CURVATURES)),
        ),
        [
            (
                row["entry"],
                row["objective"],
                str(row["clean"]["count"]),
                *(f"{row[name]['mean']:,.0f}" for name in _SIZES),
                *(_interval(row.get(name), ".2%") for name in accuracies),
                *(_interval(row.get(name), ".3g") for name in _CURVATURES),
            )
            for row in means
        ],
    )


def _interval(number: Mapping[str, Any] | None, form: str) -> str:
    if number is None:
        return ""
    if number["low"] is None:
        return f"{number['mean']:{form}}"
    return "{mean:{f}} ({low:{f}} to {high:{f}})".format(f=form, **number)


def _spaced(names: Sequence[str]) -> list[str]:
    return [name.replace("_", " ").removeprefix("init ") for name in names]


def _difference_table(results: Mapping[str, Any]) -> Table:
    first, means = results["entries"][0], results["means"]
    sizes = {
        (row["objective"], row["entry"]): [
            f"{row[name]['mean']:,.0f}" for name in _SIZES[1:]
        ]
        for row in means
    }
    return Table(
        f"{first} less each other entry, paired by seed, with bootstrap 95 % intervals "
        f"and exact permutation tests; {results['comparisons']} comparisons",
        (
            *("entry", "objective", "quantity", "seeds", "difference", "p"),
            *("seeds needed", *(f"{n}, {first} / entry" for n in _spaced(_SIZES[1:]))),
        ),
        [
            (
                *(row[name] for name in ("entry", "objective", "quantity")),
                str(row["count"]),
                _interval(row, "+.2%"),
                f"{row['p']:.3g}",
                str(row["seeds_needed"] or "more than 1,000"),
                *map(
                    " / ".join,
                    zip(
                        sizes[row["objective"], first],
                        sizes[row["objective"], row["entry"]],
                        strict=True,
                    ),
                ),
            )
            for row in results["differences"]
        ],
    )


def _correlation_table(results: Mapping[str, Any]) -> Table:
    return Table(
        "Rank correlation of curvature with robust accuracy, over entries and seeds, "
        "with bootstrap 95 % intervals",
        ("curvature", "objective", "Spearman's rho", "networks"),
        [
            (
                row["quantity"].replace("_", " "),
                row["objective"],
                f"{row['rho']:+.2f} ({row['low']:+.2f} to {row['high']:+.2f})",
                str(row["count"]),
            )
            for row in results["rank_correlations"]
        ]
        or [("none is defined", "", "", "")],
    )


def _search_table(results: Mapping[str, Any]) -> Table:
    first = results["entries"][0]
    return Table(
        "The fitted cells",
        (
            "entry",
            "seed",
            "entropy, nats",
            f"edges other than {first}'s",
            "normal cell",
        ),
        [
            (
                row["entry"],
                str(row["seed"]),
                ", ".join(f"{value:.4f}" for value in row["entropies"])
                + (f" of {row['largest_entropy']:.4f}" if row["entropies"] else ""),
                ""
                if row["other_edges"] is None
                else f"{row['other_edges']} of {row['edges']}",
                ", ".join(f"{n} {op}" for op, n in row["operations"]["normal"].items()),
            )
            for row in results["searches"]
        ],
    )


def _run_table(runs: Sequence[Mapping[str, Any]], attacks: Sequence[str]) -> Table:
    return Table(
        "Every fitted network",
        (
            *("entry", "seed", "objective", *_spaced(_SIZES)),
            *("images", "clean", *attacks, "robust", *_spaced(_CURVATURES)),
        ),
        [
            (
                *(run["entry"], str(run["seed"]), run["objective"]),
                *(f"{run[name]:,}" for name in (*_SIZES, "images")),
                f"{run['clean']:.2%}",
                *(f"{run['attacks'].get(n, math.nan):.2%}" for n in attacks),
                f"{run['robust']:.2%}",
                *(f"{run[name]:.3g}" if name in run else "" for name in _CURVATURES),
            )
            for run in runs
        ],
    )


def warnings(results: Mapping[str, Any]) -> list[str]:
    """Returns the stages that failed, with their reasons."""
    return [f"{name} failed: {why}" for name, why in results["failures"].items()]


def markdown(results: Mapping[str, Any]) -> str:
    """Returns the results as Markdown.

    Args:
        results: what `as_json` gives.
    """
    settings = results["settings"]
    size = settings["image_size"]
    at = f" at {size}x{size}" if size else ""
    parts = [
        f"# {', '.join(results['entries'])} on {settings['dataset']}{at}",
        *results["conclusions"],
        *(table.markdown() for table in tables(results)),
        *(f"**Warning** {warning}" for warning in warnings(results)),
    ]
    return "\n\n".join(parts)


def write_results(
    settings: StudySettings,
    rows: Sequence[Row],
    failures: Mapping[str, str],
    workdir: Path,
) -> dict[str, Any]:
    """Writes what is known so far.

    Args:
        settings, rows, failures: see `as_json`.
        workdir: receives the files.

    Returns:
        The content of study.json.

    Raises:
        OSError: a file could not be written.
    """
    results = as_json(settings, rows, failures)
    write_json(workdir / RESULTS, results)
    table = markdown(results)
    folder = workdir / "tensorboard"
    # Each time all of it is written anew.
    shutil.rmtree(folder, ignore_errors=True)
    if results["runs"]:
        picture = draw_study(results["runs"], results["means"], workdir / FIGURE)
        _write_tensorboard(results, table, picture, folder)
    write_text(workdir / TABLE, table + "\n")
    return results


def _write_tensorboard(
    results: Mapping[str, Any], table: str, picture: np.ndarray, folder: Path
) -> None:
    with event_writer(folder):
        tf.summary.text("study", table)
        tf.summary.image("study", picture[np.newaxis])
    names = ("entry", "seed", "objective", *_SIZES)
    for number, run in enumerate(results["runs"]):
        with event_writer(folder / f"run_{number:03d}"):
            hp.hparams({name: run[name] for name in names})
            for name in (*COMPARED, *_CURVATURES):
                if name in run:
                    tf.summary.scalar(name, run[name])


def print_summary(results: Mapping[str, Any], workdir: Path, log: Log) -> None:
    """Prints the results and the paths of their files.

    Args:
        results: what study.json holds.
        workdir: folder of the study.
        log: receives the lines.
    """
    log(f"\n{markdown(results)}\n")
    log(f"Results      {workdir / RESULTS}, {workdir / TABLE}")
    if results["runs"]:
        log(f"Figure       {workdir / FIGURE}")
    log(f"\nNext: tensorboard --logdir {workdir / 'tensorboard'}")
