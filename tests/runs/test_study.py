"""A study whose stages are stubs, and one whole study at toy size."""

import concurrent.futures
import json
import multiprocessing
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import SimpleNamespace

import attrs
import pytest

from advrush_tf.errors import AnotherRunError, NonFiniteLossError, UserError
from advrush_tf.genotypes.genotype import Genotype, random_genotype
from advrush_tf.nn.cell_network import CellNetwork
from advrush_tf.runs import study, study_progress
from advrush_tf.runs.profiling import count_parameters, multiply_adds
from advrush_tf.runs.report import read_section
from advrush_tf.runs.study_results import differing_edges
from advrush_tf.runs.study_settings import StudySettings
from support.hparams import hparams
from support.processes import IMPORTED, kill_while_writing, take_share_as_traced

TOY = {
    "entries": ("random", "genotype.json"),
    "seeds": 1,
    "objectives": ("fgsm_rs",),
    "attacks": ("fgsm",),
    "dataset": "digits",
    "image_size": 4,
    "epsilon": "1/10",
}
STAGES = {
    "search": {"num_nodes": 1, "init_channels": 1, "num_cells": 1},
    "fit": {
        **{"epochs": 1, "batch_size": 256, "init_channels": 2, "num_cells": 1},
        **{"eval_steps": 1, "test_images": 20, "validation_portion": 0.1},
    },
    "attack": {"test_images": 20, "checks": False},
    "landscape": {
        **{"test_images": 2, "batch_size": 2, "top": 1, "lanczos_steps": 2},
        **{"surface_points": 3, "cut_points": 4},
    },
}


@pytest.fixture
def toy(tmp_path):
    """Settings whose second entry is a file; `changes` replace some."""
    edges, path = [("sep_conv_3x3", 0), ("skip_connect", 1)], tmp_path / "own.json"
    Genotype(edges, [2], edges, [2]).save(path)

    def make(**changes):
        values = {**TOY, "entries": ("random", str(path)), **STAGES, **changes}
        return StudySettings(**values)

    return make


@pytest.fixture
def stubs(monkeypatch):
    """Stages that write what others read; returns the settings that they ran with."""
    ran = []

    def search(settings, folder, data_dir, log):
        ran.append(settings)
        folder.mkdir(parents=True, exist_ok=True)
        drawn = random_genotype(100 + settings.seed, settings.num_nodes)
        drawn.save(folder / "genotype.json")

    def fit(settings, folder, data_dir, log):
        ran.append(settings)
        log("a line")
        # The second candidate of each seed is the best.
        robust = "search_1" in settings.genotype
        row = {"val_robust_accuracy": robust, "val_accuracy": 0.5}
        # No two fits give the same weights.
        report = {"best": row, "sha256": {"model.keras": f"fit {len(ran)}"}}
        (folder / "fit.json").write_text(json.dumps(report))

    def sha256_of(models, report):
        """Those of the models, which must be those that a report is on."""
        fits = [Path(model).with_name("fit.json") for model in models]
        weights = [json.loads(path.read_text())["sha256"] for path in fits]
        settings = {"sha256": [one["model.keras"] for one in weights]}
        if report.exists() and json.loads(report.read_text())["settings"] != settings:
            raise AnotherRunError("sha256 differs")
        return settings

    def attack(settings, folder, data_dir, log):
        ran.append(settings)
        folder.mkdir(parents=True, exist_ok=True)
        robust = 0.2 + 0.15 * settings.seed + 0.3 * ("random" in settings.model)
        results = {
            "settings": sha256_of([settings.model], folder / "results.json"),
            "images": 20,
            "clean": {"accuracy": 0.9},
            "robust": {"accuracy": robust},
            "epsilon": {"given": "1/10"},
            "attacks": [
                {"attack": "fgsm", "accuracy": accuracy, "epsilon": {"given": given}}
                for accuracy, given in ((robust, "1/10"), (0.77, "1/50"))
            ],
            "warnings": [{"code": "few_images", "sentence": "Few images."}],
        }
        (folder / "results.json").write_text(json.dumps(results))
        (folder / "results.md").write_text("")

    def landscape(settings, folder, data_dir, log):
        ran.append(settings)
        folder.mkdir(parents=True, exist_ok=True)
        number = {"mean": 1 + settings.seed - ("random" in settings.model[0])}
        model = {"curvature": {"penalty": number, "top_eigenvalue": number}}
        warnings = [{"model": "m", "code": "chance", "sentence": "It guesses."}]
        results = {
            "settings": sha256_of(settings.model, folder / "inspection.json"),
            "models": {"m": model},
            "warnings": warnings * (settings.seed == 2),
        }
        (folder / "inspection.json").write_text(json.dumps(results))
        (folder / "inspection.md").write_text("")

    for name, stage in (
        ("search", search),
        ("fit", fit),
        ("attack", attack),
        ("landscape", landscape),
    ):
        monkeypatch.setattr(study, f"run_{name}", stage)
    monkeypatch.setattr(study, "check_study", lambda settings, dataset: None)
    monkeypatch.setattr(study.Run, "load_dataset", lambda *names: None)
    monkeypatch.setattr(study_progress.keras.backend, "clear_session", lambda: None)
    # A network is its channels and the letters of its operations.
    monkeypatch.setattr(
        study,
        "build_network",
        lambda settings, dataset, genotype: (settings.init_channels, str(genotype)),
    )
    counts = dict.fromkeys(
        study.Match, lambda network: network[0] ** 2 * len(network[1])
    )
    monkeypatch.setattr(study, "_COUNTS", counts)
    return ran


def run(settings, workdir, **options):
    lines = []
    return study.run_study(settings, workdir, log=lines.append, **options), lines


def test_an_entry_or_a_seed_only_adds_runs(toy, stubs, tmp_path):
    workdir = tmp_path / "study"
    first, _ = run(toy(), workdir)
    assert len(stubs) == 6
    entries = (*toy().entries, "darts")
    changed = toy(entries=entries, seeds=2)
    results, lines = run(changed, workdir)
    # Two searches and a fit, an attack and a landscape for each of six networks.
    assert len(stubs) == 2 + 3 * 6
    assert len({str(settings) for settings in stubs}) == len(stubs)
    assert [row for row in results["runs"] if row in first["runs"]] == first["runs"]
    assert lines[-4].startswith("\n# random, ")
    count = len(study.Plan(changed, workdir, None).stages)
    assert lines[0] == f"study of {count} runs in {workdir}"
    assert lines[1].startswith(f"[9/{count}] ")
    assert lines[1].endswith(" left; next darts/seed_0/search_0")
    assert any(line.startswith(f"[{count}/{count}] ") for line in lines)
    _, lines = run(changed, workdir)
    assert lines[1] == f"[{count}/{count}] 0 s left"
    assert len(stubs) == 2 + 3 * 6
    with pytest.raises(UserError, match="first_entry is 'random' there and 'darts'"):
        run(attrs.evolve(changed, entries=entries[::-1]), workdir)
    with pytest.raises(UserError, match="select is 1 there and 2 here"):
        run(attrs.evolve(changed, select=2), workdir)


def test_a_run_whose_report_is_another_one_is_run_again(toy, stubs, tmp_path):
    workdir = tmp_path / "study"
    first, _ = run(toy(), workdir)
    path = workdir / "random" / "seed_0" / "attack_fgsm_rs" / "results.json"
    path.write_text(path.read_text().replace("0.9", "0.8"))
    again, _ = run(toy(), workdir)
    assert len(stubs) == 6 + 1
    assert again["runs"] == first["runs"]
    for text in ("null", "7", '{"random/seed_0/search_0": 3.5}'):
        (workdir / "stages.json").write_text(text)
        with pytest.raises(UserError, match="does not hold the finished runs"):
            run(toy(), workdir)


def test_the_numbers_of_a_study(toy, stubs, tmp_path, monkeypatch):
    cells = str(StudySettings.genotype(toy().entries[1]))
    sizes = (lambda network: 200 if network[1] == cells else 100), lambda network: 300
    monkeypatch.setattr(study, "_COUNTS", dict(zip(study.Match, sizes, strict=True)))
    workdir = tmp_path / "study"
    results, lines = run(toy(seeds=3), workdir)
    assert results["comparisons"] == 2
    clean, robust = results["differences"]
    assert clean["mean"] == 0 and clean["p"] == 1 and clean["seeds_needed"] is None
    assert robust["mean"] == pytest.approx(0.3)
    # Three differences of one sign, of eight choices of signs.
    assert robust["p"] == 0.25
    # 2 / 2**7 is the first p below 0.05 / 2.
    assert robust["seeds_needed"] == 7
    means = {row["entry"]: row for row in results["means"]}
    assert means["random"]["robust"]["mean"] == pytest.approx(0.65)
    # Student's reaches 1.02.
    assert means["random"]["robust"]["high"] == means["random"]["fgsm"]["high"] == 1
    assert means["random"]["parameters"]["low"] is not None
    # The random cells have less curvature and more robustness at each seed.
    assert results["rank_correlations"][0]["count"] == 6
    assert results["rank_correlations"][0]["rho"] < 0.5
    own = toy().entries[1]
    assert results["conclusions"][0] == (
        "0 of 2 differences are shown: each needs p of 0.025 or less for 5 % in all, "
        "and with 3 seeds the permutation test gives no less than 0.25, whatever the "
        "differences are; from 7 seeds on it can show one."
    )
    assert results["conclusions"][2] == (
        "After fgsm_rs, random's robust accuracy is 30.00 percentage points higher "
        f"than {own}'s, at 0.50 times the parameters (p = 0.25 over 3 seeds): this is "
        "not shown; were it and its spread as measured, Student's test would show it "
        "four times in five with 7 seeds."
    )
    table = (workdir / "study.md").read_text()
    assert "| random | fgsm_rs | 3 | 2 |" in table
    assert "| 20 | 90.00% | 80.00% | 80.00% | 2 | 2 |" in table
    assert "**Warning** 6 networks: Few images.\n" in table
    guesses = f"random, fgsm_rs, seed 2; {own}, fgsm_rs, seed 2: It guesses."
    assert f"**Warning** {guesses}\n" in table
    assert any(guesses in line for line in lines)
    section = read_section(workdir)
    assert section.warnings[1] == guesses
    assert section.kind == "Study" and len(section.figures) == 1
    trials = {
        str(run.relative_to(workdir / "tensorboard")): hparams(run)[0][0].group_name
        for run in workdir.glob("tensorboard/*/*/*")
    }
    assert len(trials) == len(set(trials.values())) == 6
    assert trials["random/seed_2/fgsm_rs"] == "random, fgsm_rs, seed 2"


def test_one_seed_says_nothing_of_more(toy, stubs, tmp_path):
    results, _ = run(toy(), tmp_path / "study")
    assert results["conclusions"][2].endswith(
        "(p = 1 over 1 seed): one seed shows nothing."
    )
    table = (tmp_path / "study" / "study.md").read_text()
    assert "| robust | 1 | +30.00 | 1 |  |" in table
    assert (
        "digits at 4x4, 1 seed; robust is under all of fgsm, Linf with epsilon 1/10."
        in table
    )


def test_a_result_that_is_gone_is_made_again_with_what_was_made_of_it(
    toy, stubs, tmp_path
):
    workdir = tmp_path / "study"
    run(toy(), workdir)
    shutil.rmtree(workdir / "random" / "seed_0" / "fit_fgsm_rs")
    stubs.clear()
    run(toy(), workdir)
    assert [type(settings).__name__ for settings in stubs] == [
        "FitSettings",
        "AttackSettings",
        "LandscapeSettings",
    ]


def test_what_was_made_of_weights_that_are_gone_counts_no_more(
    toy, stubs, tmp_path, monkeypatch
):
    workdir, attack = tmp_path / "study", study.run_attack
    folder = workdir / "random" / "seed_0"
    run(toy(), workdir)
    shutil.rmtree(folder / "fit_fgsm_rs")

    def fail(settings, folder, data_dir, log):
        raise UserError("the disk is full")

    monkeypatch.setattr(study, "run_attack", fail)
    results, _ = run(toy(), workdir)
    assert [row["entry"] for row in results["runs"]] == [toy().entries[1]]
    assert "1 of 2 networks so far" in (workdir / "study.md").read_text()
    monkeypatch.setattr(study, "run_attack", attack)
    results, _ = run(toy(), workdir)
    assert len(results["runs"]) == 2
    fit, attacked = (
        json.loads((folder / name).read_text())
        for name in ("fit_fgsm_rs/fit.json", "attack_fgsm_rs/results.json")
    )
    assert attacked["settings"]["sha256"] == [fit["sha256"]["model.keras"]]


def test_an_entrys_file_may_not_change(toy, stubs, tmp_path):
    workdir, settings = tmp_path / "study", toy()
    run(settings, workdir)
    random_genotype(0, num_nodes=1).save(settings.entries[1])
    with pytest.raises(UserError, match=r"own.json is not the genotype of .*seed_0"):
        run(attrs.evolve(settings, seeds=2), workdir)


def test_an_objective_only_adds_runs_unless_cells_were_selected_by_another(
    toy, stubs, tmp_path
):
    run(toy(), tmp_path / "study")
    stubs.clear()
    run(toy(objectives=("fgsm_rs", "pgd")), tmp_path / "study")
    assert [getattr(s, "objective", "pgd") for s in stubs] == ["pgd"] * 6
    given = {"entries": ("random",), "select": 2}
    run(toy(**given), tmp_path / "selected")
    run(toy(**given, objectives=("standard", "fgsm_rs")), tmp_path / "selected")
    words = "selected_by is 'fgsm_rs' there and 'pgd' here"
    with pytest.raises(UserError, match=words):
        run(toy(**given, objectives=("fgsm_rs", "pgd")), tmp_path / "selected")


def test_a_fit_gets_the_settings_that_its_objective_uses(toy):
    fit = {"attack_steps": 3, "beta": 2.0, "milestones": (0.5,), "batch_size": 8}
    settings = toy(objectives=("standard", "pgd", "trades"), fit=fit)
    made = [settings.fit_settings(name, "ADVRUSH", 0) for name in settings.objectives]
    assert [one.attack_steps for one in made] == [None, 3, 3]
    assert [one.beta for one in made] == [None, None, 2.0]
    assert [one.milestones for one in made][1:] == [(0.5,)] * 2
    assert {one.batch_size for one in made} == {8}
    with pytest.raises(UserError, match="--fit_beta has no use with --objective=pgd"):
        toy(objectives=("pgd",), fit={"beta": 2.0})


def test_what_does_not_change_an_outcome_may_change(toy, stubs, tmp_path):
    run(toy(), tmp_path / "study")
    attack = {**STAGES["attack"], "batch_size": 5}
    stubs.clear()
    run(toy(attack=attack), tmp_path / "study")
    assert not stubs
    with pytest.raises(UserError, match=r"attack is .* there"):
        run(toy(attack={**attack, "test_images": 21}), tmp_path / "study")


def test_edges_that_differ_are_counted():
    normal = [
        ("skip_connect", 0),
        ("sep_conv_3x3", 1),
        ("skip_connect", 2),
        ("none", 0),
    ]
    other = [("skip_connect", 1), ("sep_conv_3x3", 1), ("none", 0), ("skip_connect", 2)]
    one, two = (Genotype(edges, [2, 3], normal, [2, 3]) for edges in (normal, other))
    # The order of a node's edges does not count.
    assert differing_edges(one, two) == 1
    assert differing_edges(one, one) == 0
    assert differing_edges(one, random_genotype(0, num_nodes=3)) is None


def test_a_failed_run_does_not_end_the_others(toy, stubs, tmp_path, monkeypatch):
    fit = study.run_fit

    def fail(settings, folder, data_dir, log):
        if "random" in settings.genotype:
            raise NonFiniteLossError("loss became nan in epoch 1")
        fit(settings, folder, data_dir, log)

    monkeypatch.setattr(study, "run_fit", fail)
    results, lines = run(toy(), tmp_path / "study")
    assert [row["entry"] for row in results["runs"]] == [toy().entries[1]]
    assert "loss became nan" in results["failures"]["random/seed_0/fit_fgsm_rs"]
    assert results["failures"]["random/seed_0/attack_fgsm_rs"].startswith("it needs")
    assert any(line.startswith("FAILED random/seed_0/fit_fgsm_rs") for line in lines)
    assert results["conclusions"][1] == (
        f"After fgsm_rs, random and {toy().entries[1]} cannot be compared: no seed has "
        "both."
    )
    monkeypatch.setattr(study, "run_fit", fit)
    results, _ = run(toy(), tmp_path / "study")
    assert len(results["runs"]) == 2 and not results["failures"]


def test_the_most_robust_candidate_is_fitted_in_the_first_entrys_size(
    toy, stubs, tmp_path
):
    workdir = tmp_path / "study"
    wide = {**STAGES["fit"], "init_channels": 40}
    entries = ("darts", "random")
    run(toy(entries=entries, seeds=2, select=2, match="parameters", fit=wide), workdir)
    for entry in ("darts", "random"):
        folders = [
            workdir / entry / "seed_1" / name for name in ("network", "search_1")
        ]
        chosen, best = (Genotype.load(path / "genotype.json") for path in folders)
        assert chosen == best
        network, first = (
            json.loads((workdir / name / "network" / "network.json").read_text())
            for name in (f"{entry}/seed_1", "darts/seed_0")
        )
        assert network["parameters"] == pytest.approx(first["parameters"], rel=0.05)
        assert network["init_channels"] in {
            s.init_channels for s in stubs if f"/{entry}/seed_1/network" in str(s)
        }
    searches = [s for s in stubs if hasattr(s, "warmup_epochs")]
    assert [s.seed for s in searches] == [0, 1, 2, 3]
    assert all(s.gamma == 0 for s in searches)


def test_a_candidate_is_selected_when_all_have_ended(toy, stubs, tmp_path, monkeypatch):
    fit = study.run_fit

    def slow(settings, *rest, **log):
        # The best one ends last.
        time.sleep(0.3 * ("search_1" in settings.genotype))
        fit(settings, *rest, **log)

    monkeypatch.setattr(study, "run_fit", slow)
    monkeypatch.setattr(study, "_pool", ThreadPoolExecutor)
    monkeypatch.setattr(study_progress, "attempt_quietly", study_progress.attempt)
    workdir = tmp_path / "study"
    results, _ = run(toy(entries=("random",), select=3), workdir, processes=3)
    folder = workdir / "random" / "seed_0"
    network = json.loads((folder / "network" / "network.json").read_text())
    assert network["selected"] == results["runs"][0]["selected"] == 1
    assert "selected" not in results["means"][0]
    chosen, best = (
        Genotype.load(folder / name / "genotype.json")
        for name in ("network", "search_1")
    )
    assert chosen == best


@pytest.mark.parametrize("match", study.Match)
def test_matched_networks_have_the_size_of_the_first(match):
    count = {
        study.Match.PARAMETERS: lambda net: count_parameters(net.trainable_variables),
        study.Match.MULTIPLY_ADDS: multiply_adds,
    }[match]

    def size(channels, seed=1):
        genotype = random_genotype(seed, num_nodes=2)
        return count(CellNetwork(genotype, 10, (8, 8, 1), channels, num_cells=2))

    wanted = size(24, seed=0)
    channels = study.matching_channels(size, wanted)
    sizes = {n: size(n) for n in (channels - 1, channels, channels + 1)}
    errors = {n: abs(sizes[n] / wanted - 1) for n in sizes}
    assert min(errors, key=errors.get) == channels
    assert errors[channels] <= 0.05


def test_sizes_that_cannot_be_matched_are_named():
    with pytest.raises(UserError, match=r"gives 300 parameters .* 2 are nearest, with"):
        study.matching_channels(lambda n: 100 * n**2, 300)
    with pytest.raises(UserError, match=r"1 are nearest, with \+100.0%. Give more"):
        study.matching_channels(lambda n: 100 * n**2, 50)


def test_cells_that_cannot_be_matched_are_named_before_any_fit(toy, stubs, tmp_path):
    own = toy().entries[1]
    given = {
        "entries": ("darts", "random", own),
        "search": {**STAGES["search"], "num_nodes": 2},
        "fit": {**STAGES["fit"], "init_channels": 1},
    }
    results, lines = run(toy(**given, match="parameters"), tmp_path / "study")
    named, first = (
        next(n for n, line in enumerate(lines) if words in line)
        for words in ("own/seed_0/network: No number", "fit_fgsm_rs took")
    )
    assert named < first
    assert own not in {row["entry"] for row in results["runs"]}
    assert {row["entry"] for row in results["runs"]} >= {"darts"}
    run(toy(**given), tmp_path / "unmatched")


class AtOnce:
    """A pool in which stages end at once; with that named `killed` it breaks."""

    def __init__(self, killed=""):
        self.killed, self.begun = killed, []

    def submit(self, attempt, stage, workdir):
        self.begun.append(stage.name)
        future = concurrent.futures.Future()
        if stage.name == self.killed:
            future.set_exception(BrokenProcessPool())
            return future
        (workdir / stage.name).mkdir()
        (workdir / stage.name / "report.json").write_text("{}")
        failure = "it diverged" if stage.name == "b" else None
        future.set_result(study_progress.Outcome(1.0, failure))
        return future


def _progress(pool, workdir):
    needs = {"a": (), "b": (), "c": ("a",), "d": ("b",), "e": ("c",), "f": ()}
    stages = [
        study_progress.Stage(name, "kind", "report.json", needed, None)
        for name, needed in needs.items()
    ]
    run = SimpleNamespace(workdir=workdir, log=lambda line: None)
    return stages, study_progress.Progress(stages, run, pool, processes=2)


def test_idle_processes_begin_what_comes_later_and_needs_nothing_that_failed(tmp_path):
    pool = AtOnce()
    stages, progress = _progress(pool, tmp_path)
    progress.finish(stages[:3], stages)
    # c needs a; d, which needs b, is passed over.
    assert pool.begun == ["a", "b", "c", "f"]
    progress.finish(stages)
    assert pool.begun == ["a", "b", "c", "f", "e"]
    assert progress.failures == {"b": "it diverged", "d": "it needs b"}
    # Failed ones are tried again, finished ones are not.
    again = AtOnce()
    (tmp_path / "b").rename(tmp_path / "old")
    stages, progress = _progress(again, tmp_path)
    progress.finish(stages)
    assert again.begun == ["b"]


def test_processes_share_cores_and_gpus(monkeypatch):
    calls = {}
    config = {
        "threading.set_intra_op_parallelism_threads": None,
        "threading.set_inter_op_parallelism_threads": None,
        "list_physical_devices": ["first", "second"],
        "set_visible_devices": None,
        "experimental.set_memory_growth": None,
    }
    for name, value in config.items():

        def called(*given, name=name, value=value):
            calls[name] = given
            return value

        monkeypatch.setattr(f"tensorflow.config.{name}", called)
    monkeypatch.setattr(study.os, "cpu_count", lambda: 8)
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "1")
    study.take_share(1, 3)
    own = {("GPU",), ("second", "GPU"), ("second", True)}
    assert set(calls.values()) == own
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS")
    study.take_share(1, 3)
    assert set(calls.values()) == {(2,), *own}
    study.take_share(2, 16)
    own = {("GPU",), ("first", "GPU"), ("first", True)}
    assert set(calls.values()) == {(1,), *own}


def test_a_process_that_is_killed_ends_the_study_in_a_sentence(tmp_path):
    stages, progress = _progress(AtOnce("c"), tmp_path)
    with pytest.raises(UserError, match=r"was killed, .* fewer --processes"):
        progress.finish(stages)
    pool = AtOnce()
    stages, progress = _progress(pool, tmp_path)
    progress.finish(stages[:1])
    assert pool.begun == []  # What had ended is kept.


def test_the_time_left_is_that_of_finished_runs():
    times = {"fit": [60.0, 120.0], "attack": [30.0]}
    assert study_progress.time_left(["fit", "attack"], times) == "2 min left"
    left = study_progress.time_left(["fit", "other"], times)
    assert left == "90 s and 1 runs of new kinds left"
    assert study_progress.time_left(["other"], times) == "1 runs of new kinds left"
    assert study_progress.time_left([], times) == "0 s left"
    assert study_progress.time_left(["fit", "fit"], times, 2) == "90 s left"
    assert study_progress.duration(7200) == "2.0 h"


def test_a_killed_study_ends_as_one_that_was_not(toy, tmp_path, monkeypatch):
    """By SIGKILL in the attack; the other runs in two processes."""
    monkeypatch.setattr(study, "take_share", take_share_as_traced)
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: IMPORTED)
    # It looks through all that earlier tests have left.
    monkeypatch.setattr(study_progress.keras.backend, "clear_session", lambda: None)
    settings, killed = toy(entries=("random",)), tmp_path / "killed"
    flags = {name: getattr(settings, name) for name in TOY}
    flags |= {f"{s}_{name}": v for s in STAGES for name, v in STAGES[s].items()}
    flags = {n: ",".join(v) if isinstance(v, tuple) else v for n, v in flags.items()}
    kill_while_writing("study", flags, killed, "results.json")
    fit = killed / "random" / "seed_0" / "fit_fgsm_rs" / "fit.json"
    before = fit.stat().st_mtime_ns
    resumed, _ = run(settings, killed)
    assert fit.stat().st_mtime_ns == before
    whole, lines = run(settings, tmp_path / "whole", processes=2)
    assert resumed == whole
    assert lines[1].startswith("[0/5]") and "[5/5] random/seed_0" in lines[6]
    assert (
        "epoch 1/1"
        in (tmp_path / "whole/random/seed_0/fit_fgsm_rs/log.txt").read_text()
    )
    (network,) = whole["runs"]
    assert network["penalty"] > 0 and network["images"] == 20
