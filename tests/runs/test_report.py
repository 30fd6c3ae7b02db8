import hashlib
import json

import pytest

from advrush_tf.errors import UserError
from advrush_tf.files import read_json, write_json
from advrush_tf.runs import conclusions, evaluation_report, fit_record, inspection
from advrush_tf.runs.report import read_section
from advrush_tf.runs.table import accuracy_text
from advrush_tf.statistics import wilson
from support.workdirs import (
    COMMAND,
    make_evaluation,
    make_fit,
    make_inspection,
    make_search,
    paint,
)

MAKERS = {
    "search": make_search,
    "fit": make_fit,
    "results": make_evaluation,
    "inspection": make_inspection,
}
REPORTS = [name for name in MAKERS if name != "search"]


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    return read_section(make_search(tmp_path_factory.mktemp("search")))


@pytest.fixture
def fit(tmp_path):
    return read_section(make_fit(tmp_path))


def _values(section):
    return {found.quantity: found.value for found in section.measurements}


def test_a_search_shows_its_cells_and_its_history(search):
    assert search.kind == "Search"
    assert "after epoch 3 of 3, 2 of them without the penalty" in search.lead
    normal, reduce, *history = search.figures
    assert normal.source.startswith("data:image/svg+xml")
    assert "node 2 reads state 0 by skip_connect" in normal.description
    assert "node 3 reads state 2 by sep_conv_3x3" in normal.description
    assert "sep_conv" not in reduce.description
    assert len(history) == 3
    assert all(figure.source.startswith("data:image/png") for figure in history)
    assert search.genotype.startswith("Genotype(\n    normal=(")
    assert ("penalty", "4.5") in search.tables[0].rows


def test_a_search_can_be_run_again(search):
    assert search.command == COMMAND
    assert search.settings["num_nodes"] == 2
    assert search.versions == {"advrush_tf": "1.2.3"}


@pytest.mark.parametrize(
    ("name", "conclusion"),
    [
        (
            "search",
            "The accuracy on the alpha half went from 25.00% to 75.00%; the penalty "
            "ended at 4.5; the last epoch changed none of the 8 kept edges.",
        ),
        (
            "fit",
            "The best weights, of epoch 2 of 3, are right on 90.00% of the test images "
            "and on 50.50% of them under PGD-20; the last ones on 60.00% and 0.00%.",
        ),
        (
            "results",
            "Of the images, 75.00% are right without an attack and 0.00% under all of "
            "them; the strongest alone, autoattack, leaves 25.00%; 2 warnings say why "
            "not to rely on this.",
        ),
        (
            "inspection",
            "The mean top eigenvalue of one/model.keras is 3.25; over 7 random "
            "genotypes the robust accuracy falls with the top eigenvalue.",
        ),
    ],
)
def test_a_run_concludes_in_a_sentence(tmp_path, name, conclusion):
    assert read_section(MAKERS[name](tmp_path)).conclusion == conclusion


@pytest.mark.parametrize(
    ("high", "verb"), [(4.0, "do not overlap"), (7.0, "overlap, so this may be chance")]
)
def test_two_models_are_compared_with_their_intervals(tmp_path, high, verb):
    path = make_inspection(tmp_path) / "inspection.json"
    results = read_json(path)
    top = {"mean": 8.0, "low": 6.0, "high": 9.0}
    models = {
        "steep": {"images": 64, "accuracy": 1, "curvature": {"top_eigenvalue": top}},
        "flat": results["models"]["one/model.keras"],
    }
    models["flat"]["curvature"]["top_eigenvalue"]["high"] = high
    assert conclusions.of_inspection({"models": models}) == (
        "The mean top eigenvalue of flat is 3.25, the smallest, and of steep 8; "
        f"their intervals {verb}."
    )


def test_eigenvalues_are_compared_by_their_size():
    tops = {
        "curved": {"mean": -500.0, "low": -600.0, "high": -400.0},
        "flat": {"mean": 2.0, "low": None, "high": None},
    }
    models = {n: {"curvature": {"top_eigenvalue": top}} for n, top in tops.items()}
    start = "The mean top eigenvalue of flat is 2, the smallest, and of curved -500; "
    assert conclusions.of_inspection({"models": models}) == (
        f"{start}a single image has no interval, so this may be chance."
    )
    tops["flat"] |= {"low": 1.0, "high": 3.0}
    assert conclusions.of_inspection({"models": models}) == (
        f"{start}their intervals do not overlap."
    )


def test_an_unfinished_search_can_be_told_of(tmp_path):
    section = read_section(make_search(tmp_path, epochs=1, metrics=None))
    assert "after epoch 1 of 3" in section.lead
    assert section.command == COMMAND
    assert section.tables == []


def test_a_fit_tells_the_accuracies_of_both_weights(fit):
    assert fit.kind == "Fit"
    assert "12,345 parameters" in fit.lead
    assert fit.warnings == ["(chance): It guesses."]
    table, history = fit.tables
    assert "On 200 test images, PGD-20 with epsilon 0.1 (25.50/255)" in table.caption
    assert table.head[2:] == ("clean accuracy", "robust accuracy")
    assert table.rows == [
        ("model.keras", "2", accuracy_text(0.9, 200), accuracy_text(0.505, 200)),
        ("model_last.keras", "3", accuracy_text(0.6, 200), accuracy_text(0, 200)),
    ]
    low, high = wilson(180, 200)
    assert table.rows[0][2] == f"90.00% ({low:.2%} to {high:.2%})"
    assert [row[0] for row in history.rows] == ["1 (first)", "2 (best)", "3 (last)"]
    assert history.rows[1][1:] == ("1", "0.9", "0.1")
    (curves,) = fit.figures
    assert "learning rate" in curves.caption


def test_models_are_told_apart_by_their_files(fit):
    best, last = (hashlib.sha256(x).hexdigest() for x in (b"the best", b"the last"))
    models = [(found.model, found.quantity) for found in fit.measurements]
    robust = "PGD-20, epsilon 0.1 (fit)"
    assert models == [(best, "clean"), (best, robust), (last, "clean"), (last, robust)]


def test_best_weights_of_the_last_epoch_are_told_once(tmp_path):
    report = json.loads((make_fit(tmp_path) / "fit.json").read_text())
    report["best"] = report["history"][-1]
    (tmp_path / "fit.json").write_text(json.dumps(report))
    (tmp_path / "model.keras").unlink()
    section = read_section(tmp_path)
    assert len(section.tables[0].rows) == 1
    assert section.tables[1].rows[-1][0] == "3 (best)"
    assert {found.model for found in section.measurements} == {
        str(tmp_path / "model.keras")
    }


def test_a_fit_without_cells_names_its_network(tmp_path):
    section = read_section(make_fit(tmp_path, network="resnet18"))
    assert "resnet18, 64 channels" in section.lead


def test_an_evaluation_tells_each_attack_with_its_interval(tmp_path):
    section = read_section(make_evaluation(tmp_path, image_size=9))
    assert section.kind == "Evaluation"
    assert "4 images of the test split of shades at 9x9" in section.lead
    attacks, fgsm, autoattack = section.tables
    assert [row[:3] for row in attacks.rows] == [
        ("clean", "", "75.00%"),
        ("fgsm", "8/255", "50.00%"),
        ("autoattack: after a", "8/255", "50.00%"),
        ("autoattack: after b", "8/255", "25.00%"),
        ("autoattack", "8/255", "25.00%"),
        ("fgsm", "8/255", "50.00%"),
        ("autoattack", "8/255", "75.00%"),
        ("fgsm", "2/255", "75.00%"),
        ("autoattack", "2/255", "75.00%"),
        ("all", "8/255", "0.00%"),
    ]
    low, high = wilson(3, 4)
    assert attacks.rows[0][3] == f"{low:.2%} to {high:.2%}"
    assert [row[4] for row in attacks.rows[4:8]] == [
        "",
        *["runs/two/model.keras"] * 2,
        "",
    ]
    assert fgsm.rows[1] == ("runs/two/model.keras", "50.00%", "25.00%")
    assert "autoattack" in autoattack.caption
    assert "(zero_gradients): No gradients." in section.warnings
    assert "keras" in section.versions


def test_an_evaluation_compares_what_was_crafted_on_the_model(tmp_path):
    values = _values(read_section(make_evaluation(tmp_path)))
    shares = {name: text.partition(" ")[0] for name, text in values.items()}
    assert shares == {
        "clean": "75.00%",
        "fgsm, Linf, epsilon 8/255": "50.00%",
        "autoattack, Linf, epsilon 8/255": "25.00%",
        "all of fgsm + autoattack + transfers, Linf, epsilon 8/255": "0.00%",
    }


@pytest.mark.parametrize(
    ("name", "tables_of"),
    [
        ("fit", lambda report: [fit_record.accuracies(report)]),
        ("results", evaluation_report.tables),
        ("inspection", inspection.tables),
    ],
)
def test_the_page_shows_the_tables_that_the_run_told(tmp_path, name, tables_of):
    section = read_section(MAKERS[name](tmp_path))
    told = tables_of(json.loads((tmp_path / f"{name}.json").read_text()))
    assert section.tables[: len(told)] == told


def test_figures_are_those_that_are_there(tmp_path):
    make_evaluation(tmp_path)
    paint(tmp_path / "transfer_fgsm.png")
    captions = [figure.caption for figure in read_section(tmp_path).figures]
    assert captions == [
        "Accuracy over the radius of the attacks, with 95 % intervals",
        "Accuracy of each model on what fgsm crafted on each",
    ]


def test_an_inspection_tells_curvature_and_correlation(tmp_path):
    section = read_section(make_inspection(tmp_path))
    assert "64 images of the train[80%:] split of cifar10" in section.lead
    assert section.warnings == ["(chance): It guesses."]
    curvature, correlation = section.tables
    assert curvature.head == (
        *("model", "clean accuracy"),
        *("top eigenvalue", "trace", "penalty", "gradient norm"),
        "error of the mean trace",
    )
    assert curvature.rows[0][:3] == ("one/model.keras", "87.50%", "3.25 (2.5 to 4)")
    assert curvature.rows[0][-1] == "0.02"
    assert "7 random genotypes" in correlation.caption
    assert correlation.rows == [("top eigenvalue", "-0.50 (-0.75 to -0.25)")]
    assert _values(section) == {"top eigenvalue": "3.25 (2.5 to 4)"}
    assert section.versions == {"advrush_tf": "1.2.3", "keras": "3.0"}


def test_an_inspection_shows_all_pictures_but_those_of_searches(tmp_path):
    captions = [
        figure.caption for figure in read_section(make_inspection(tmp_path)).figures
    ]
    assert captions == [
        "Curvature of the loss as a function of the input, per image",
        "My own",
    ]


def test_another_folder_is_refused_with_what_was_expected(tmp_path):
    with pytest.raises(UserError, match=r"nothing to report.*fit\.json.*results\.json"):
        read_section(tmp_path)
    with pytest.raises(UserError, match="nothing to report"):
        read_section(tmp_path / "none")


@pytest.mark.parametrize("name", REPORTS)
@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"settings": 1}', "\x00"])
def test_a_damaged_report_is_named(tmp_path, name, text):
    path = MAKERS[name](tmp_path) / f"{name}.json"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"{name}\.json or a picture .* damaged"):
        read_section(tmp_path)


def test_a_search_without_all_settings_is_named(tmp_path):
    path = make_search(tmp_path, epochs=1) / "genotypes" / "epoch_0001.json"
    genotype = read_json(path)
    del genotype["provenance"]["settings"]["num_cells"]
    write_json(path, genotype)
    with pytest.raises(UserError, match=r"genotypes or .* damaged .*'num_cells'"):
        read_section(tmp_path)


def test_a_damaged_epoch_of_a_search_is_named(tmp_path):
    (make_search(tmp_path) / "genotypes" / "epoch_0002.json").write_text("{")
    with pytest.raises(UserError, match=r"epoch_0002\.json is damaged"):
        read_section(tmp_path)


def test_a_damaged_picture_is_named(tmp_path):
    (make_fit(tmp_path) / "curves.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"damaged .*curves\.png is no PNG file"):
        read_section(tmp_path)
    (tmp_path / "curves.png").unlink()
    (tmp_path / "curves.png").mkdir()
    with pytest.raises(UserError, match=r"curves\.png cannot be used \(Is a directory"):
        read_section(tmp_path)
