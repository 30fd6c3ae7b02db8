"""Conclusions from the results of runs, each a sentence on the page of a report."""

from collections.abc import Mapping
from typing import Any

from advrush_tf.search.history import CELLS, SearchHistory


def of_search(history: SearchHistory) -> str:
    """Returns how a search's accuracy, penalty and genotype developed."""
    metrics, parts = history.metrics, []
    if "val_accuracy" in metrics:
        first, last = metrics["val_accuracy"][[0, -1]]
        parts.append(
            f"the accuracy on the alpha half went from {first:.2%} to {last:.2%}"
        )
    if "penalty" in metrics and history.epochs[-1] > history.settings["warmup_epochs"]:
        parts.append(f"the penalty ended at {metrics['penalty'][-1]:.3g}")
    kept = sum(len(history.kept(kind)[-1]) for kind in CELLS)
    changed = sum(counts[-1] for kind in CELLS for counts in history.changes(kind))
    if len(history.epochs) > 1:
        parts.append(
            f"the last epoch still changed {changed} of the {kept} kept edges"
            if changed
            else f"the last epoch changed none of the {kept} kept edges"
        )
    return _sentence(parts)


def of_fit(report: Mapping[str, Any]) -> str:
    """Returns a fit's accuracies on the test split and what the last epochs cost.

    Args:
        report: what fit.json holds.
    """
    test, epochs = report["test"], len(report["history"])
    best, last = test["best"], test["last"]
    parts = [
        f"the best weights, of epoch {report['best']['epoch']} of {epochs}, are right "
        f"on {best['accuracy']:.2%} of the test images and on "
        f"{best['robust_accuracy']:.2%} of them under PGD-{test['attack']['steps']}"
    ]
    if best != last:
        parts.append(
            f"the last ones on {last['accuracy']:.2%} and {last['robust_accuracy']:.2%}"
        )
    return _sentence(parts)


def of_evaluation(results: Mapping[str, Any]) -> str:
    """Returns what is left of a model's accuracy, and which attack took most.

    Args:
        results: what results.json holds.
    """
    radius, model = results["epsilon"]["given"], results["settings"]["model"]
    own = [
        attack
        for attack in results["attacks"]
        if attack["crafted_on"] == model and attack["epsilon"]["given"] == radius
    ]
    strongest = min(own, key=lambda attack: attack["accuracy"])
    parts = [
        f"of the images, {results['clean']['accuracy']:.2%} are right without an "
        f"attack and {results['robust']['accuracy']:.2%} under all of them",
        f"the strongest alone, {strongest['attack']}, leaves "
        f"{strongest['accuracy']:.2%}",
    ]
    if count := len(results["warnings"]):
        warnings = "a warning says" if count == 1 else f"{count} warnings say"
        parts.append(f"{warnings} why not to rely on this")
    return _sentence(parts)


def of_inspection(results: Mapping[str, Any]) -> str:
    """Returns which model is the flattest, and whether flat genotypes are robust.

    Args:
        results: what inspection.json holds.
    """
    tops = {
        name: found["curvature"]["top_eigenvalue"]
        for name, found in results["models"].items()
    }
    # Of a smooth model an eigenvalue of the largest size may be negative.
    by_curvature = sorted(tops, key=lambda name: abs(tops[name]["mean"]))
    flat, steep = by_curvature[0], by_curvature[-1]
    parts = [f"the mean top eigenvalue of {flat} is {tops[flat]['mean']:.3g}"]
    if len(tops) > 1:
        parts[0] += f", the smallest, and of {steep} {tops[steep]['mean']:.3g}"
        parts.append(_intervals(tops[flat], tops[steep]))
    architectures = results.get("architectures", {})
    correlations = architectures.get("rank_correlations", {})
    if found := correlations.get("top_eigenvalue"):
        verb = "has no clear relation to"
        if found["high"] < 0 or found["low"] > 0:
            verb = "falls with" if found["high"] < 0 else "rises with"
        parts.append(
            f"over {architectures['count']} random genotypes the robust accuracy "
            f"{verb} the top eigenvalue"
        )
    return _sentence(parts)


def _intervals(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    if one["low"] is None or other["low"] is None:
        return "a single image has no interval, so this may be chance"
    if one["high"] < other["low"] or other["high"] < one["low"]:
        return "their intervals do not overlap"
    return "their intervals overlap, so this may be chance"


def _sentence(parts: list[str]) -> str:
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}." if text else ""
