import numpy as np
import pytest
from matplotlib.image import imread

from advrush_tf.errors import UserError
from advrush_tf.files import sha256
from advrush_tf.fit.model import AdvRushFitModel
from advrush_tf.fit.objectives import Standard
from advrush_tf.runs.checkpoints import CheckpointStore
from advrush_tf.runs.fit_record import (
    FitRecord,
    accuracies,
    best_network,
    check_models,
    draw_record,
    epoch_line,
    print_summary,
)
from advrush_tf.runs.fit_settings import Selection
from advrush_tf.runs.models import save_model
from advrush_tf.runs.recipes import fit_settings
from advrush_tf.runs.table import accuracy_text
from support.small_networks import tiny_network


def row(epoch, clean=None, robust=None):
    values = {"epoch": epoch, "loss": 1.5, "learning_rate": 0.1, "seconds": 2.0}
    if clean is not None:
        values |= {"val_accuracy": clean, "val_robust_accuracy": robust}
    return values


ROWS = [row(1, 0.5, 0.2), row(2), row(3, 0.6, 0.3), row(4, 0.8, 0.3), row(5, 0.9, 0.1)]


@pytest.mark.parametrize(
    ("selection", "better", "best"),
    [
        # Equal robust accuracies are decided by the clean one.
        (Selection.ROBUST, [True, False, True, True, False], 4),
        (Selection.CLEAN, [True, False, True, True, True], 5),
    ],
)
def test_the_best_epoch(selection, better, best):
    record = FitRecord()
    assert [record.add(values, selection) for values in ROWS] == better
    assert record.best["epoch"] == best
    assert record.seconds == 10.0
    assert FitRecord.from_notes({}) == FitRecord()


def test_a_record_survives_its_notes():
    record = FitRecord()
    record.add(ROWS[0], Selection.ROBUST)
    notes = {"history": record.history, "best": record.best, "seconds": record.seconds}
    again = FitRecord.from_notes(notes)
    assert again == record
    assert not again.add(row(2, 0.5, 0.2), Selection.ROBUST)


def test_best_weights_whose_file_is_damaged_come_from_their_checkpoint(tmp_path):
    model = AdvRushFitModel(tiny_network(), Standard())
    model.compile()
    store, path, lines = CheckpointStore(tmp_path), tmp_path / "model.keras", []
    best = model.network.get_weights()
    store.save(model, 1)
    model.network.set_weights([0.5 * value for value in best])
    store.save(model, 2)
    record = FitRecord(best=row(1, 0.5, 0.2), best_sha256="of the file that is gone")
    settings = fit_settings(dataset="digits", eval_steps=1)
    given = model, settings, record, path, store, lines.append
    # No file, and another one that is whole.
    for damage in (lambda: None, lambda: save_model(tiny_network(), path)):
        damage()
        store.load(model, 2)
        for value, wanted in zip(best_network(*given).get_weights(), best, strict=True):
            np.testing.assert_array_equal(value, wanted)
        assert "those of epoch 1, and is made again from" in lines.pop()
    for damage in (lambda: store.path(1).write_bytes(b"PK"), store.path(1).unlink):
        damage()
        with pytest.raises(UserError, match=r"epoch 1, and no checkpoint has them any"):
            best_network(*given)
    record.best_sha256 = sha256(path)
    best_network(*given)
    assert not lines


def test_models_that_are_not_those_of_a_report_are_refused(tmp_path):
    path, other = tmp_path / "model.keras", tmp_path / "model_last.keras"
    path.write_bytes(b"1")
    other.write_bytes(b"2")
    report = {"sha256": {file.name: sha256(file) for file in (path, other)}}
    check_models(report, tmp_path)
    for damage in (lambda: other.replace(path), path.unlink):
        damage()
        with pytest.raises(UserError, match=r"model\.keras is not the model that fit"):
            check_models(report, tmp_path)
    check_models({}, tmp_path)


def test_curves_that_are_missing_are_drawn_from_the_report(tmp_path):
    draw_record({"history": ROWS, "best": ROWS[3]}, tmp_path)
    path = tmp_path / "curves.png"
    assert imread(path).std() > 0.05
    path.write_text("there already")
    draw_record({"history": ROWS, "best": ROWS[3]}, tmp_path)
    assert path.read_text() == "there already"


def test_the_line_of_an_epoch():
    assert epoch_line(row(7, 0.75, 0.25), 9) == (
        "epoch 7/9  loss 1.5 val 0.75 val_robust 0.25 lr 0.1  2 s"
    )
    assert "val" not in epoch_line(row(2), 9)
    long = dict.fromkeys(
        (*("accuracy", "robust_accuracy"), *("val_accuracy", "val_robust_accuracy")),
        1 / 3,
    )
    line = epoch_line({**row(100), **long, "seconds": 1234.5}, 200) + "  best"
    assert len(line) <= 100


def test_the_end_names_epsilon_and_both_models(tmp_path):
    best = {"accuracy": 0.5, "robust_accuracy": 0.25}
    report = {
        "history": ROWS,
        "best": ROWS[3],
        "test": {
            "images": 100,
            "attack": {"epsilon": 8 / 255, "steps": 20},
            "best": best,
            "last": {name: np.float64(v / 2) for name, v in best.items()},
        },
    }
    lines = []
    print_summary(report, tmp_path, lines.append)
    text = "\n".join(lines)
    assert "100 test images, PGD-20 with epsilon 0.03137 (8.00/255)" in text
    best, last = accuracies(report).rows
    assert best == ("model.keras", "4", *(accuracy_text(x, 100) for x in (0.5, 0.25)))
    assert last[:2] == ("model_last.keras", "5")
    assert (last[2][:6], last[3][:6]) == ("25.00%", "12.50%")
    assert f"| {' | '.join(best)} |" in text
    assert f"Best weights {tmp_path}/model.keras\n" in text
