"""The frame of all runs."""

import errno
import shlex
from types import SimpleNamespace

import attrs
import numpy as np
import pytest

from advrush_tf.data.array_examples import ArrayExamples
from advrush_tf.data.dataset import ImageDataset, load_dataset
from advrush_tf.errors import UserError
from advrush_tf.files import read_json, write_json
from advrush_tf.runs import run as run_module
from advrush_tf.runs.run import Run, explained_writes
from advrush_tf.runs.search_settings import SearchSettings
from advrush_tf.runs.settings import Settings, setting
from support.meetings import on_two_workers
from support.tiny_search import tiny_compiled


@attrs.frozen
class Small(Settings):
    """One setting."""

    size: int = setting(3, "A size.")


def full_disk():
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_workdir_is_taken_by_open_and_then_refuses_other_settings(tmp_path):
    workdir = tmp_path / "run"
    with Run(Small(), workdir) as run:
        assert not workdir.exists()
        run.open()
    assert read_json(workdir / "settings.json") == {"size": 3}
    with (
        pytest.raises(UserError, match="size is 3 there and 4 here"),
        Run(Small(4), workdir) as run,
    ):
        run.open()


def test_a_run_does_not_go_on_with_other_images(tmp_path):
    x, y = np.zeros((2, 3, 3, 1), np.uint8), np.array([0, 1])
    changed = x.copy()
    changed[1, 2, 2] = 9

    def take(train, test):
        parts = (ArrayExamples(*part) for part in (train, test))
        with Run(Small(), tmp_path) as run:
            run.open(ImageDataset("mine", *parts, 2, ("a", "b")))

    take((x, y), (x, y))
    take((x, y), (x, y))
    was = (tmp_path / "dataset.json").read_bytes()
    for train, test, words in (
        ((changed, y), (x, y), "other images: training checksum is "),
        ((x, y), (x, y[::-1]), "other images: test checksum is "),
        ((x[:1], y[:1]), (x, y), "training images is 2 there and 1 here"),
    ):
        with pytest.raises(UserError, match=words):
            take(train, test)
    assert (tmp_path / "dataset.json").read_bytes() == was
    for damaged in (was[:-9], b"[1]"):
        (tmp_path / "dataset.json").write_bytes(damaged)
        with pytest.raises(UserError, match=r"dataset.json is damaged .* another"):
            take((x, y), (x, y))


def test_writes_that_fail_are_one_clear_line_once_the_workdir_is_open(tmp_path):
    with pytest.raises(OSError, match="No space"), Run(Small(), tmp_path):
        full_disk()
    with (
        pytest.raises(UserError, match=r"No space left .* free some space"),
        Run(Small(), tmp_path) as run,
    ):
        run.open()
        full_disk()
    with pytest.raises(UserError, match="free some space"), explained_writes(tmp_path):
        full_disk()


def test_classes_without_images_are_named(tmp_path):
    dataset, lines = load_dataset("digits"), []
    labels = np.arange(10)
    run = Run(Small(), tmp_path, log=lines.append)
    run.name_missing_classes(dataset, dataset.train, "training images")
    assert not lines
    some = ArrayExamples(dataset.train.images[:10], np.where(labels > 7, 0, labels))
    run.name_missing_classes(dataset, some, "held-out images")
    run.name_missing_classes(dataset, SimpleNamespace(labels=None), "images")
    (line,) = lines
    assert "Among the 10 held-out images is none of 2 of 10 classes (8, 9)" in line


def test_data_in_an_order_of_its_own_are_named(tmp_path, monkeypatch):
    train, lines = SimpleNamespace(ordered=True), []
    dataset = SimpleNamespace(train=train, held_back=False)
    monkeypatch.setattr(run_module, "load_dataset", lambda *_: dataset)
    Run(Small(), tmp_path, log=lines.append).load_dataset("sorted", None)
    assert "warning: data set sorted is stored in some order" in lines[0]


def test_images_that_are_held_back_for_testing_are_named(tmp_path):
    lines, images = [], np.zeros((20, 4, 4), np.uint8)
    path, labels = tmp_path / "own.npz", np.arange(20) % 2
    np.savez(path, x_train=images, y_train=labels)
    run = Run(Small(), tmp_path, log=lines.append)
    assert len(run.load_dataset(str(path), None, test_only=True).test) == 4
    assert "has no part named test: 4 of its 20 images, the same in ev" in lines[0]
    np.savez(path, x_test=images, y_test=labels)
    assert len(run.load_dataset(str(path), None, test_only=True).test) == 20
    assert len(lines) == 1


def test_other_errors_pass_through(tmp_path):
    with pytest.raises(KeyboardInterrupt), Run(Small(), tmp_path) as run:
        run.open()
        raise KeyboardInterrupt


def test_what_is_next_is_on_the_same_data(tmp_path):
    settings, lines = SearchSettings(dataset="a set", image_size=8), []
    run = Run(settings, tmp_path / "it's", log=lines.append, data_dir="/data")
    run.print_next("fit", genotype="x", epochs=None)
    board, fit = map(shlex.split, lines)
    folder = tmp_path / "it's" / "tensorboard"
    assert board[2:] == ["-m", "tensorboard.main", f"--logdir={folder}"]
    data = ["--dataset=a set", "--image_size=8", "--data_dir=/data"]
    assert fit[1:] == ["launch/fit.py", "--genotype=x", *data]


def test_a_finished_run_is_shown_again(tmp_path):
    lines, path = [], tmp_path / "report.json"
    content = {"score": 7, "settings": {"size": 3}}

    def print_summary(report, folder, log):
        log(f"{report['score']} in {folder}")

    with Run(Small(), tmp_path, log=lines.append) as run:
        run.open()
        assert run.finished("report.json", print_summary, "game") is None
        write_json(path, content)
        assert run.finished("report.json", print_summary, "game", "end") is None
        assert run.finished("report.json", print_summary, "game") == content
    assert lines == [f"{tmp_path} holds a finished game.", f"7 in {tmp_path}"]
    one_digit = path.read_text().replace("7", "8", 1)
    for damaged in ("{", "[]", "{}", one_digit):
        path.write_text(damaged)
        with pytest.raises(UserError, match=r"report\.json is damaged .* Delete it"):
            run.finished("report.json", print_summary, "game")
    write_json(path, {"score": 7, "settings": {"size": 4}})
    with pytest.raises(UserError, match=r"settings: size is 4 there and 3 here"):
        run.finished("report.json", print_summary, "game")
    assert len(lines) == 2


def test_a_run_is_restored_from_its_newest_checkpoint(tmp_path):
    lines, model = [], tiny_compiled()
    with Run(Small(), tmp_path, log=lines.append) as run:
        assert run.restore(model, 5) == (0, {})
        weight = model.network_weights[0]
        value = np.full(weight.shape, 0.5)
        weight.assign(value)
        run.store.save(model, 2, {"best": 1})
        weight.assign(0 * value)
        assert run.restore(model, 5) == (2, {"best": 1})
    np.testing.assert_array_equal(weight.numpy(), value)
    assert lines == [f"Resuming {tmp_path} after epoch 2 of 5."]


def test_checkpoints_of_which_none_can_be_used_are_refused(tmp_path):
    with Run(Small(), tmp_path, log=lambda line: None) as run:
        run.store.folder.mkdir()
        path = run.store.path(2)
        path.write_bytes(b"PK damaged")
        with pytest.raises(UserError, match=r"another --workdir to start over"):
            run.restore(tiny_compiled(), 5)
    assert path.read_bytes() == b"PK damaged"


def test_workers_compare_settings_data_and_workdir_and_the_chief_alone_logs(tmp_path):
    lines = []

    def refusal(small, workdir, **also):
        """Returns what each worker is refused for, if the second has these."""

        def run(devices):
            given = (Small(), tmp_path / "run", {"also": [1]})
            own = (small, tmp_path / workdir, also)
            settings, folder, extra = given if devices.chief else own
            try:
                with Run(settings, folder, devices, lines.append) as run:
                    run.agree(run.load_dataset("digits", None), **extra)
                    run.log("agreed")
            except UserError as error:
                return str(error)
            return None

        return on_two_workers(run)

    assert refusal(Small(), "run", also=(1,)) == [None, None]
    assert lines == ["agreed"]
    # A file of another start is not the chief's.
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".start_0.json").write_text("{}")
    there = "Worker 1 has refused the run; its output says why."
    for small, workdir, also, words in (
        (Small(4), "run", 1, "Worker 1 (here) has other settings than the chief"),
        (Small(4), "run", 1, "size is 3 there and 4 here"),
        (Small(), "run", 2, "also is [1] there and [2] here"),
        (Small(), "other", 1, "Worker 1 does not see what the chief writes to"),
    ):
        chief, other = refusal(small, workdir, also=(also,))
        assert chief == there
        assert words in other
    assert not list((tmp_path / "run").iterdir())


def test_workers_restore_the_checkpoint_that_the_chief_found_and_read_its_report(
    tmp_path,
):
    model = tiny_compiled()
    with Run(Small(), tmp_path) as run:
        run.open()
        for epoch in (1, 2):
            run.store.save(model, epoch, {"best": epoch})
    late = {"settings": Small().to_dict()}
    write_json(tmp_path / "late.json", late)

    def resume(devices):
        with Run(Small(), tmp_path, devices, lambda line: None) as run:
            if not devices.chief:
                # Storage that shows files late.
                run.store.find = pytest.fail
            found = run.finished("late.json", lambda *a: None, "game")
            report = run.conclude(
                "report.json",
                lambda: (tmp_path / "report.json").write_text(f"{devices.worker[0]}"),
            )
            return run.restore(model, 5), found, report

    assert on_two_workers(resume) == [((2, {"best": 2}), late, 0)] * 2
