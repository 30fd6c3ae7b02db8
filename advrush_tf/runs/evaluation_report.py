"""The files of an evaluation: results, tables, figures, TensorBoard."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from advrush_tf.attacks.geometry import Norm
from advrush_tf.figures import attack as figures
from advrush_tf.files import write_arrays, write_json, write_text
from advrush_tf.runs.evaluation import Evaluation, as_json
from advrush_tf.runs.models import short_names
from advrush_tf.runs.table import Table, images_text, share_text
from advrush_tf.runs.tensorboard import event_writer
from advrush_tf.statistics import wilson

RESULTS, TABLE = "results.json", "results.md"
IMAGES, TRIPLES = "adversarial.npz", "adversarial.png"
CURVE, MATRIX = "robustness.png", "transfer_{attack}.png"


def write_report(
    evaluated: Evaluation, workdir: Path, log: Callable[[str], None]
) -> dict[str, Any]:
    """Writes the results of an evaluation, whatever then becomes of the figures.

    The table comes last and marks the evaluation's end.

    Args:
        evaluated: outcome of the evaluation.
        workdir: receives the files.
        log: receives the lines for the user.

    Returns:
        The content of results.json.

    Raises:
        OSError: a file could not be written.
    """
    results = as_json(evaluated)
    write_json(workdir / RESULTS, results)
    table = markdown(results)
    pictures = _draw(evaluated, results, workdir)
    _write_tensorboard(results, table, pictures, workdir / "tensorboard")
    write_text(workdir / TABLE, table + "\n")
    print_summary(results, workdir, log)
    return results


def _draw(
    evaluated: Evaluation, results: Mapping[str, Any], workdir: Path
) -> dict[str, np.ndarray]:
    """Writes the figures, and the images if wanted; returns the figures by name."""
    settings, pictures = evaluated.settings, {}
    if settings.save_images:
        pictures["adversarial"] = _keep_images(evaluated, workdir)
    if settings.epsilons:
        pictures["robustness"] = _draw_curve(evaluated, workdir / CURVE)
    if transfer := results["transfer"]:
        names = short_names(transfer["models"])
        for attack, matrix in transfer["matrices"].items():
            path = workdir / MATRIX.format(attack=attack)
            picture = figures.draw_transfer_matrix(names, np.array(matrix), path)
            pictures[f"transfer_{attack}"] = picture
    return pictures


def _keep_images(evaluated: Evaluation, workdir: Path) -> np.ndarray:
    """Saves the images of all attacks and draws those of the last that broke any."""
    arrays = {
        f"{crafted.source}_{crafted.attack}_{crafted.epsilon}": crafted.progress.images
        for crafted in evaluated.crafted
    }
    write_arrays(workdir / IMAGES, labels=evaluated.y, clean=evaluated.x, **arrays)
    own = [crafted for crafted in evaluated.attacked if not crafted.source]
    last = next((c for c in own[::-1] if (c.progress.broken_by >= 0).any()), own[-1])
    rows = np.argsort(last.progress.broken_by < 0, kind="stable")[:8]
    before, after = (
        evaluated.classifier.predict(images[rows]).argmax(-1)
        for images in (evaluated.x, last.progress.images)
    )
    # In L2 no pixel comes near epsilon.
    reach = float(last.epsilon)
    if evaluated.settings.norm != Norm.LINF:
        reach = float(np.abs(last.progress.images[rows] - evaluated.x[rows]).max())
    return figures.draw_triples(
        evaluated.x[rows],
        last.progress.images[rows],
        evaluated.y[rows],
        before,
        after,
        evaluated.dataset.class_names,
        reach or 1.0,
        workdir / TRIPLES,
    )


def _draw_curve(evaluated: Evaluation, path: Path) -> np.ndarray:
    curves = {
        name: [
            (float(right.mean()), *wilson(int(right.sum()), len(right)))
            for right in evaluated.curve(name)[1]
        ]
        for name in evaluated.settings.attacks
    }
    radii, _ = evaluated.curve(evaluated.settings.attacks[0])
    return figures.draw_robustness_curves(radii, curves, path, evaluated.settings.norm)


def _write_tensorboard(
    results: Mapping[str, Any],
    table: str,
    pictures: Mapping[str, np.ndarray],
    folder: Path,
) -> None:
    clean = results["clean"]["accuracy"]
    with event_writer(folder):
        tf.summary.scalar("accuracy/clean", clean)
        tf.summary.scalar("accuracy/robust", results["robust"]["accuracy"])
        for tag, steps in _curves(results).items():
            for step, accuracy in sorted({0: clean, **steps}.items()):
                tf.summary.scalar(tag, accuracy, step)
        tf.summary.text("results", table)
        for name, picture in pictures.items():
            tf.summary.image(name, picture[np.newaxis])


def _curves(results: Mapping[str, Any]) -> dict[str, dict[int, float]]:
    """Returns accuracies over epsilon, times 10,000, and over a series' members."""
    curves: dict[str, dict[int, float]] = {}
    for attack in results["attacks"]:
        epsilon, name = attack["epsilon"], attack["attack"]
        if attack["crafted_on"] != results["settings"]["model"]:
            name += f", crafted on {attack['crafted_on']}"
        curve = curves.setdefault(f"accuracy over 10000 epsilon/{name}", {})
        curve[round(10000 * epsilon["value"])] = attack["accuracy"]
        if len(attack["members"]) > 1:
            tag = f"accuracy after each member/{name}, epsilon {epsilon['given']}"
            accuracies = [member["accuracy"] for member in attack["members"]]
            curves[tag] = dict(enumerate(accuracies, 1))
    return curves


def tables(results: Mapping[str, Any]) -> list[Table]:
    """Returns the accuracies under attack and the transfer between models.

    Args:
        results: what results.json holds.
    """
    transfers = results["transfer"] or {"models": (), "matrices": {}}
    return [
        _accuracies(results),
        *(
            _transfer_table(attack, transfers["models"], matrix)
            for attack, matrix in transfers["matrices"].items()
        ),
    ]


def _accuracies(results: Mapping[str, Any]) -> Table:
    rows = [_row("clean", "", results["clean"])]
    for attack in results["attacks"]:
        name, epsilon = attack["attack"], attack["epsilon"]["given"]
        own = attack["crafted_on"] == results["settings"]["model"]
        if own and len(attack["members"]) > 1:
            rows += [
                _row(f"{name}: after {member['name']}", epsilon, member)
                for member in attack["members"]
            ]
        place = "" if own else attack["crafted_on"]
        rows.append(_row(name, epsilon, attack, place, f"{attack['seconds']:.1f}"))
    rows.append(_row("all", results["epsilon"]["given"], results["robust"]))
    head = ("attack", "epsilon", "accuracy", "95 % interval", "crafted on", "seconds")
    return Table("Accuracy under attack", head, rows)


def _row(
    name: str,
    epsilon: str,
    share: Mapping[str, Any],
    place: str = "",
    seconds: str = "",
) -> tuple[str, ...]:
    low, high = share["interval"]
    interval = f"{low:.2%} to {high:.2%}"
    return name, epsilon, f"{share['accuracy']:.2%}", interval, place, seconds


def _transfer_table(
    attack: str, models: Sequence[str], matrix: Sequence[Sequence[float]]
) -> Table:
    return Table(
        f"Accuracy under {attack}, crafted on (rows) and measured on (columns)",
        ("crafted on", *models),
        [
            (model, *(f"{accuracy:.2%}" for accuracy in row))
            for model, row in zip(models, matrix, strict=True)
        ],
    )


def markdown(results: Mapping[str, Any]) -> str:
    """Returns the results as Markdown: accuracies, transfer and warnings.

    Args:
        results: what results.json holds.
    """
    settings = results["settings"]
    parts = [
        f"# Robustness of {settings['model']}",
        f"{images_text(settings)}, {results['images']} images of the "
        f"{results['split']} split; {results['norm']}, epsilon "
        f"{results['epsilon']['given']} ({results['epsilon']['value']:.6g}); seed "
        f"{settings['seed']}; SHA-256 {settings['sha256'][0]}.",
        *(table.markdown() for table in tables(results)),
        *(f"**Warning** {warning}" for warning in warnings(results)),
    ]
    return "\n\n".join(parts)


def warnings(results: Mapping[str, Any]) -> list[str]:
    """Returns the reasons not to trust an evaluation, with their codes."""
    return [f"({one['code']}): {one['sentence']}" for one in results["warnings"]]


def print_summary(
    results: Mapping[str, Any], workdir: Path, log: Callable[[str], None]
) -> None:
    """Prints the results and the paths of their files.

    Args:
        results: what results.json holds.
        workdir: folder of the evaluation.
        log: receives the lines.
    """
    log(f"\n{markdown(results)}\n")
    robust, clean = share_text(results["robust"]), results["clean"]["accuracy"]
    log(f"Robust accuracy {robust}, clean {clean:.2%}.")
    log(f"\nResults      {workdir / RESULTS}, {workdir / TABLE}")
    matrices = sorted(workdir.glob(MATRIX.format(attack="*")))
    for path in (workdir / IMAGES, workdir / TRIPLES, workdir / CURVE, *matrices):
        if path.exists():
            log(f"             {path}")
