"""The files of a study: its results, tables, figure and TensorBoard."""

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorboard.plugins.hparams import api as hp

from advrush_tf.attacks.geometry import Norm
from advrush_tf.figures.study import draw_study
from advrush_tf.files import write_json, write_text
from advrush_tf.runs.run import Log
from advrush_tf.runs.study_results import (
    COMPARED,
    CURVATURES,
    SIZES,
    Row,
    as_json,
    counted,
)
from advrush_tf.runs.study_settings import StudySettings, folder_name
from advrush_tf.runs.table import Table, images_text
from advrush_tf.runs.tensorboard import event_writer

RESULTS, TABLE, FIGURE = "study.json", "study.md", "study.png"
# Networks that a warning names.
_NAMED = 3
_SIZES = ("init_channels", *SIZES)


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
            *(*accuracies, *_spaced(CURVATURES)),
        ),
        [
            (
                row["entry"],
                row["objective"],
                str(row["clean"]["count"]),
                *(f"{row[name]['mean']:,.0f}" for name in _SIZES),
                *(_interval(row.get(name), ".2%") for name in accuracies),
                *(_interval(row.get(name), ".3g") for name in CURVATURES),
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


def _points(difference: Mapping[str, Any]) -> str:
    """In percentage points."""
    names = [name for name in ("mean", "low", "high") if difference[name] is not None]
    in_points = {name: 100 * difference[name] for name in names}
    return _interval({"low": None, **in_points}, "+.2f")


def _needed(difference: Mapping[str, Any]) -> str:
    if difference["deviation"] is None:
        return ""
    return str(difference["seeds_needed"] or "more than 1,000")


def _spaced(names: Sequence[str]) -> list[str]:
    return [name.replace("_", " ").removeprefix("init ") for name in names]


def _difference_table(results: Mapping[str, Any]) -> Table:
    first = results["entries"][0]
    return Table(
        f"{first} less each other entry, paired by seed, with bootstrap 95 % intervals "
        "(of few seeds too narrow: of three it is the least and the largest "
        "difference) and permutation tests, exact up to 16 seeds; "
        f"{results['comparisons']} comparisons",
        (
            *("entry", "objective", "quantity", "seeds", "difference, points", "p"),
            *("seeds needed", *(f"{n}, {first} / entry" for n in _spaced(SIZES))),
        ),
        [
            (
                *(row[name] for name in ("entry", "objective", "quantity")),
                str(row["count"]),
                _points(row),
                f"{row['p']:.3g}",
                _needed(row),
                *(
                    " / ".join(f"{mean:,.0f}" for mean in row["sizes"][name])
                    for name in SIZES
                ),
            )
            for row in results["differences"]
        ],
    )


def _correlation_table(results: Mapping[str, Any]) -> Table:
    return Table(
        "Rank correlation of curvature with robust accuracy, over entries and seeds, "
        "with bootstrap 95 % intervals, too narrow as networks of a cell are alike",
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
        "The fitted cells: entropy of the weights of an edge's operations, of those "
        "among which a genotype's are chosen, and the weight of none; and how many "
        "edges are others",
        (
            *("entry", "seed", "entropy, nats", "without none", "weight of none"),
            *(f"edges other than {first}'s", "than of the entry's other seeds"),
            "normal cell",
        ),
        [
            (
                *(row["entry"], str(row["seed"])),
                _of_largest(row, "entropy"),
                _of_largest(row, "choice"),
                "" if row["none"] is None else f"{row['none']:.0%}",
                ""
                if row["other_edges"] is None
                else f"{row['other_edges']} of {row['edges']}",
                ", ".join(map(str, row["other_edges_of_seeds"])),
                ", ".join(f"{n} {op}" for op, n in row["operations"]["normal"].items()),
            )
            for row in results["searches"]
        ],
    )


def _of_largest(row: Mapping[str, Any], name: str) -> str:
    if row[name] is None:
        return ""
    return f"{row[name]:.3f} of {row[f'largest_{name}']:.3f}"


def _run_table(runs: Sequence[Mapping[str, Any]], attacks: Sequence[str]) -> Table:
    return Table(
        "Every fitted network",
        (
            *("entry", "seed", "objective", *_spaced(_SIZES)),
            *("images", "clean", *attacks, "robust", *_spaced(CURVATURES)),
        ),
        [
            (
                *(run["entry"], str(run["seed"]), run["objective"]),
                *(f"{run[name]:,}" for name in (*_SIZES, "images")),
                f"{run['clean']:.2%}",
                *(f"{run['attacks'].get(n, math.nan):.2%}" for n in attacks),
                f"{run['robust']:.2%}",
                *(f"{run[name]:.3g}" if name in run else "" for name in CURVATURES),
            )
            for run in runs
        ],
    )


def warnings(results: Mapping[str, Any]) -> list[str]:
    """Returns the stages that failed, with their reasons, and what their runs warn of.

    Args:
        results: what `as_json` gives.
    """
    runs: dict[str, list[str]] = {}
    for run in results["runs"]:
        name = "{entry}, {objective}, seed {seed}".format(**run)
        for sentence in dict.fromkeys(run["warnings"]):
            runs.setdefault(sentence, []).append(name)
    return [
        *(f"{name} failed: {why}" for name, why in results["failures"].items()),
        *(
            f"{'; '.join(names) if len(names) <= _NAMED else f'{len(names)} networks'}:"
            f" {sentence}"
            for sentence, names in runs.items()
        ),
    ]


def outline(results: Mapping[str, Any]) -> str:
    """Returns in a sentence what a study's robust accuracies are measured by.

    Args:
        results: what `as_json` gives.
    """
    settings = results["settings"]
    norm = settings["attack"].get("norm", Norm.LINF)
    there, entries = len(results["runs"]), len(results["entries"])
    networks = entries * len(results["objectives"]) * results["seeds"]
    so_far = f" ({there} of {networks} networks so far)" if there < networks else ""
    return (
        f"{images_text(settings)}, {counted(results['seeds'], 'seed')}{so_far}; "
        f"robust is under all of {', '.join(settings['attacks'])}, {norm} with epsilon "
        f"{settings['epsilon']}."
    )


def markdown(results: Mapping[str, Any]) -> str:
    """Returns the results as Markdown.

    Args:
        results: what `as_json` gives.
    """
    parts = [
        f"# {', '.join(results['entries'])}",
        outline(results),
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
        picture = draw_study(
            results["runs"], results["means"], outline(results), workdir / FIGURE
        )
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
    for run in results["runs"]:
        base = folder / folder_name(run["entry"]) / f"seed_{run['seed']}"
        with event_writer(base / run["objective"]):
            trial = f"{run['entry']}, {run['objective']}, seed {run['seed']}"
            hp.hparams({name: run[name] for name in names}, trial)
            for name in (*COMPARED, *CURVATURES):
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
