"""One page on searches, fits, evaluations, inspections and studies."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from advrush_tf.errors import UserError, one_line
from advrush_tf.figures.genotype import CAN_DRAW, draw_cells
from advrush_tf.figures.search import draw_alphas, draw_history
from advrush_tf.files import read_json, sha256, write_text
from advrush_tf.genotypes.genotype import Genotype
from advrush_tf.runs import conclusions, evaluation_report, inspection, study_report
from advrush_tf.runs.command import read_command
from advrush_tf.runs.evaluation_report import CURVE, MATRIX, TRIPLES
from advrush_tf.runs.evaluation_report import RESULTS as EVALUATION
from advrush_tf.runs.fit_record import CURVES, accuracies, check_models, measured
from advrush_tf.runs.fit_record import REPORT as FIT
from advrush_tf.runs.inspection import RESULTS as INSPECTION
from advrush_tf.runs.report_page import (
    CLEAN,
    Figure,
    Measurement,
    Section,
    render,
)
from advrush_tf.runs.study_report import FIGURE as SEEDS
from advrush_tf.runs.study_report import RESULTS as STUDY
from advrush_tf.runs.table import (
    Table,
    accuracy_text,
    images_text,
    mean_text,
    share_text,
)
from advrush_tf.search.history import CELLS, SearchHistory, is_search, read_history

_NAMES = {"normal": "normal cell", "reduce": "reduction cell"}
_CAPTIONS = {
    CURVES: "Accuracies, losses and learning rate over the epochs of the fit",
    CURVE: "Accuracy over the radius of the attacks, with 95 % intervals",
    TRIPLES: "Images, their adversarial images and the scaled differences",
    "curvature.png": "Curvature of the loss as a function of the input, per image",
    "spectra.png": "Spectral density of the input Hessian, mean over the images",
    "eigenvalues.png": "Eigenvalues of an image beyond each size, mean over the images",
    "surfaces.png": "Mean loss over the plane of the gradient's sign and a random "
    "direction",
    "cuts.png": "Loss along each model's own attack",
    "architectures.png": "Random genotypes with the weights of one supernet: robust "
    "accuracy over the top eigenvalue",
    SEEDS: "Accuracy of each entry's seeds, with mean and 95 % interval",
}


def write_html(workdirs: Sequence[Path], path: Path) -> None:
    """Writes a report that needs no other file and no network.

    Args:
        workdirs: folders of searches, fits, evaluations, inspections and studies, in
            the order of the page.
        path: the HTML file, replaced if it exists.

    Raises:
        UserError: a folder holds nothing to report, or a file in it is damaged or
            cannot be read.
        OSError: the HTML file could not be written.
    """
    sections = [read_section(workdir) for workdir in workdirs]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, render(sections))


def read_section(workdir: Path) -> Section:
    """Reads the files in a run's workdir.

    Raises:
        UserError: the folder holds no finished run, or a file is damaged or cannot be
            read.
    """
    check_workdir(workdir)
    path = workdir / "genotypes"
    try:
        # It names a damaged file by itself.
        history = read_history(workdir) if is_search(workdir) else None
        if history is not None:
            return _search(workdir, history)
        name = next(name for name in _READERS if (workdir / name).is_file())
        path = workdir / name
        return _READERS[name](workdir, read_json(path))
    except UserError:
        raise
    except OSError as error:
        raise UserError(
            f"{error.filename or path} cannot be used ({error.strerror}). Run its "
            "command again, or leave the folder out of the report."
        ) from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} or a picture beside it is damaged ({one_line(error)}). Run its "
            "command again, or leave the folder out of the report."
        ) from None


def check_workdir(workdir: Path) -> None:
    """Raises UserError unless a folder holds a run that can be reported."""
    if not is_search(workdir) and not any((workdir / n).is_file() for n in _READERS):
        raise UserError(
            f"{workdir} holds nothing to report. Give the --workdir of a search with a "
            f"finished epoch (genotypes/), of a finished fit ({FIT}), evaluation "
            f"({EVALUATION}), inspection ({INSPECTION}) or study ({STUDY})."
        )


def _search(workdir: Path, history: SearchHistory) -> Section:
    settings, genotype = history.settings, history.genotypes[-1]
    last = {name: values[-1] for name, values in history.metrics.items()}
    rows = [(name.replace("_", " "), f"{value:.4g}") for name, value in last.items()]
    tables = [Table("The last epoch", ("metric", "value"), rows)] if rows else []
    return Section(
        "Search",
        workdir,
        f"On {images_text(settings)}, after epoch {history.epochs[-1]} of "
        f"{settings['epochs']}, {settings['warmup_epochs']} of them without the "
        f"penalty; supernet of {settings['num_cells']} cells, "
        f"{settings['init_channels']} channels; seed {settings['seed']}.",
        conclusions.of_search(history),
        read_command(workdir),
        settings,
        _library(genotype.provenance),
        [*_drawings(genotype), *_history_figures(history)],
        tables,
        genotype=repr(genotype),
    )


def _drawings(genotype: Genotype) -> list[Figure]:
    figures: list[Figure] = []
    if not CAN_DRAW:
        return figures
    with tempfile.TemporaryDirectory() as folder:
        draw_cells(genotype, Path(folder, "cell"))
        for kind in CELLS:
            drawing = Path(folder, f"cell_{kind}.svg").read_bytes()
            edges = "; ".join(
                f"node {2 + index // 2} reads state {state} by {operation}"
                for index, (operation, state) in enumerate(getattr(genotype, kind))
            )
            description = f"Drawing of the {_NAMES[kind]}: {edges}."
            caption = _NAMES[kind].capitalize()
            figures.append(Figure.of_svg(drawing, caption, description))
    return figures


def _history_figures(history: SearchHistory) -> list[Figure]:
    pictures = {"How the search went": draw_history(history, None)}
    for kind in CELLS:
        caption = f"Weights of the {_NAMES[kind]}'s operations, over the epochs"
        pictures[caption] = draw_alphas(history, kind, None)
    return [Figure.of_pixels(pixels, caption) for caption, pixels in pictures.items()]


def _fit(workdir: Path, report: Mapping[str, Any]) -> Section:
    settings = report["settings"]
    check_models(report, workdir)
    return Section(
        "Fit",
        workdir,
        f"Objective {settings['objective']} on {images_text(settings)}, "
        f"{len(report['history'])} epochs; {_network(settings)}, "
        f"{report['parameters']:,} parameters; seed {settings['seed']}; "
        f"{report['seconds']:.0f} s.",
        conclusions.of_fit(report),
        read_command(workdir),
        settings,
        _library(report),
        [*_own_drawings(workdir), *_pictures(workdir, [CURVES])],
        [accuracies(report), _history(report)],
        # Older fits have none.
        evaluation_report.warnings({"warnings": [], **report}),
        measurements=list(_fit_measurements(workdir, report)),
    )


def _fit_measurements(
    workdir: Path, report: Mapping[str, Any]
) -> Iterator[Measurement]:
    attack = f"PGD-{report['test']['attack']['steps']}"
    attack += f", epsilon {report['test']['attack']['epsilon']:.4g} (fit)"
    images = report["test"]["images"]
    for name, (_, result) in measured(report).items():
        path = workdir / name
        model = sha256(path) if path.is_file() else str(path)
        for quantity, key in ((CLEAN, "accuracy"), (attack, "robust_accuracy")):
            value = accuracy_text(result[key], images)
            yield Measurement(model, str(path), quantity, value)


def _own_drawings(workdir: Path) -> list[Figure]:
    """Drawings of a fit's genotype; a ResNet has none."""
    path = workdir / "genotype.json"
    return _drawings(Genotype.load(path)) if path.is_file() else []


def _network(settings: Mapping[str, Any]) -> str:
    if model := settings.get("model"):
        return f"going on from {model}"
    channels = f"{settings['init_channels']} channels"
    if settings["genotype"] is None:
        return f"{settings['network']}, {channels}"
    return f"{settings['genotype']}, {settings['num_cells']} cells, {channels}"


def _history(report: Mapping[str, Any]) -> Table:
    history, best = report["history"], report["best"]["epoch"]
    shown = {1: "first", best: "best", len(history): "last"}
    shown[best] = "best"
    names = [name for name in history[-1] if name not in ("epoch", "seconds")]
    rows = [
        (
            f"{epoch} ({shown[epoch]})",
            *(f"{row[name]:.4g}" if name in row else "" for name in names),
        )
        for row in history
        if (epoch := row["epoch"]) in shown
    ]
    head = ("epoch", *(name.replace("_", " ") for name in names))
    return Table("First, best and last epoch", head, rows)


def _evaluation(workdir: Path, results: Mapping[str, Any]) -> Section:
    settings, norm = results["settings"], results["norm"]
    model, radius = settings["model"], results["epsilon"]["given"]
    ball = f"{norm}, epsilon {radius}"
    found = {CLEAN: results["clean"]}
    for attack in results["attacks"]:
        if attack["crafted_on"] == model and attack["epsilon"]["given"] == radius:
            found[f"{attack['attack']}, {ball}"] = attack
    attacks = [*settings["attacks"]]
    if settings["source_model"]:
        attacks.append("transfers")
    found[f"all of {' + '.join(attacks)}, {ball}"] = results["robust"]
    return Section(
        "Evaluation",
        workdir,
        f"{model} on {results['images']} images of the {results['split']} split of "
        f"{images_text(settings)}; {ball}; seed {settings['seed']}; "
        f"{results['seconds']:.0f} s.",
        conclusions.of_evaluation(results),
        read_command(workdir),
        settings,
        results["versions"],
        _pictures(workdir, [CURVE, MATRIX.format(attack="*"), TRIPLES]),
        evaluation_report.tables(results),
        evaluation_report.warnings(results),
        measurements=[
            Measurement(settings["sha256"][0], model, name, share_text(share))
            for name, share in found.items()
        ],
    )


def _inspection(workdir: Path, results: Mapping[str, Any]) -> Section:
    settings, models = results["settings"], results["models"]
    names = sorted(path.name for path in workdir.glob("*.png"))
    measurements = [
        Measurement(
            model,
            path,
            "top eigenvalue",
            mean_text(found["curvature"]["top_eigenvalue"]),
        )
        for model, path, found in zip(
            settings["sha256"], settings["model"], models.values(), strict=True
        )
    ]
    return Section(
        "Inspection",
        workdir,
        f"{len(models)} {'models' if len(models) > 1 else 'model'} on "
        # Older inspections name no split.
        f"{_images(models)} images of the {results.get('split', 'test')} split of "
        f"{images_text(settings)}; "
        f"epsilon {settings['epsilon']}; seed {settings['seed']}.",
        conclusions.of_inspection(results),
        read_command(workdir),
        settings,
        _library(results) | results["versions"],
        # Searches have their sections.
        _pictures(workdir, [name for name in names if not name.startswith("search_")]),
        inspection.tables(results),
        inspection.warnings(results),
        measurements=measurements,
    )


def _images(models: Mapping[str, Any]) -> int:
    return max(found["images"] for found in models.values())


def _study(workdir: Path, results: Mapping[str, Any]) -> Section:
    settings = results["settings"]
    return Section(
        "Study",
        workdir,
        f"{', '.join(results['entries'])} on {study_report.outline(results)}",
        " ".join(results["conclusions"]),
        read_command(workdir),
        settings,
        _library(results),
        _pictures(workdir, [SEEDS]),
        study_report.tables(results),
        study_report.warnings(results),
    )


_READERS: Mapping[str, Callable[[Path, Mapping[str, Any]], Section]] = {
    FIT: _fit,
    EVALUATION: _evaluation,
    INSPECTION: _inspection,
    STUDY: _study,
}


def _library(report: Mapping[str, Any]) -> dict[str, str]:
    name, _, version = report["library"].partition(" ")
    return {name: version}


def _pictures(workdir: Path, patterns: Iterable[str]) -> list[Figure]:
    """The PNG files that match any of the patterns."""
    paths = [path for pattern in patterns for path in sorted(workdir.glob(pattern))]
    return [Figure.of_png(_read_png(path), _caption(path)) for path in paths]


def _read_png(path: Path) -> bytes:
    content = path.read_bytes()
    if not content.startswith(b"\x89PNG"):
        raise ValueError(f"{path.name} is no PNG file")
    return content


def _caption(path: Path) -> str:
    if path.match(MATRIX.format(attack="*")):
        attack = path.stem.partition("_")[2]
        return f"Accuracy of each model on what {attack} crafted on each"
    return _CAPTIONS.get(path.name, path.stem.replace("_", " ").capitalize())
