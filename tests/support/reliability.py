"""Bad flags, bad files, flipped bits and interruptions, by table.

Run by hand, for half an hour: `PYTHONPATH=.:tests python -m support.reliability`, with
the names of tables (flags, files, hostile, bits, kills) for these alone. It ends with
the counts of cases tried and held, and with code 1 if one did not hold.
"""

import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from advrush_tf.files import read_arrays, read_json, write_json
from advrush_tf.runs.models import load_classifier
from support.bits import flip_faults, header_bits, random_bits
from support.processes import ROOT, launch
from support.workdirs import make_search

_LONGEST = 600  # letters of a line
_SECONDS = 40.0
# What TensorFlow says of the machine.
_LOGGED = re.compile(r"[IWE]\d{4} |WARNING: All log messages|To enable the following")
_FLAGS = json.loads((ROOT / "testdata" / "flags.json").read_text("utf-8"))
# What the smallest run of each launcher needs; nothing can be written to its workdir.
_BASE = {
    "search": ["--dataset=digits", "--num_cells=1", "--init_channels=1"],
    "fit": ["--dataset=digits", "--num_cells=1", "--init_channels=1"],
    "attack": ["--dataset=digits", "--model=none.keras"],
    "landscape": ["--dataset=digits", "--model=none.keras"],
    "convert": ["--checkpoint=none.pth", "--output=none.keras"],
}
_VALUES = {
    "nothing": "",
    "a word": "x",
    "negative": "-1",
    "no fraction": "1/0",
    "NaN": "nan",
    "infinity": "inf",
    "24 digits": "9" * 24,
    "5000 digits": "9" * 5000,
    "beyond float32": "1e300",
    "no user": "~nosuchuser/x",
    "a loop": "loop/x",
    "a long name": "x" * 300,
    "a dollar": "$x^{$",
    "not UTF-8": "\udcff",
}
_DEEP = {"deep": "[" * 10**5, "300 levels": '{"a":' * 300 + "1" + "}" * 300}
_TEXTS = {
    "empty": "",
    "half": '{"a": [1, ',
    "a list": "[]",
    "null": "null",
    "a number": "7",
    "infinity": '{"settings": Infinity, "normal": 1e999}',
    "too large": f'{{"settings": 1{"0" * 400}}}',
    "twice": '{"settings": 1, "settings": 2}',
    **_DEEP,
}


class Case(NamedTuple):
    """One run that must end in one line.

    Attributes:
        name: in words.
        launcher: which one.
        arguments: its flags.
        prepare: called with the empty folder that it runs in.
    """

    name: str
    launcher: str
    arguments: list[str]
    prepare: Callable[[Path], object] = lambda folder: None


def flag_cases():
    """Returns every flag of every launcher with every bad value."""
    return [
        Case(f"--{flag} is {words}", launcher, [*arguments, f"--{flag}={value}"], _loop)
        for launcher, base in _BASE.items()
        for flag, (words, value) in itertools.product(_FLAGS[launcher], _VALUES.items())
        for arguments in [_without_workdir(launcher, base)]
    ]


def _without_workdir(launcher, base):
    return base if launcher == "convert" else [*base, "--workdir=file/x"]


def _loop(folder):
    (folder / "loop").symlink_to("loop")
    (folder / "file").touch()


def file_cases():
    """Returns the files that are read, with every damage."""
    return [
        Case(f"{file} is {words}", launcher, arguments, _writing(file, text))
        for (file, launcher, arguments), (words, text) in itertools.product(
            (
                ("run/settings.json", "search", [*_BASE["search"], "--workdir=run"]),
                ("run/settings.json", "landscape", ["--dataset=digits", "--model=run"]),
                ("cells.json", "fit", [*_BASE["fit"], "--genotype=cells.json"]),
                *(
                    (f"run/{name}", "landscape", ["--run=run", "--report=page.html"])
                    for name in (
                        "results.json",
                        "fit.json",
                        "inspection.json",
                        "genotypes/epoch_0001.json",
                    )
                ),
                (
                    "set/dataset_info.json",
                    "fit",
                    [*_BASE["fit"][1:], "--dataset=./set"],
                ),
                ("model.keras", "attack", ["--dataset=digits", "--model=model.keras"]),
            ),
            _TEXTS.items(),
        )
    ]


def _writing(name, text):
    def prepare(folder):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    return prepare


def hostile_cases():
    """Returns files that ask for far too much, or that are changed in one place."""
    bombs = ["--dataset=digits", "--model=bomb.keras"]
    return [
        Case("a model of zeros", "attack", bombs, _bomb),
        *(
            Case(
                f"{key} of an epoch is {words}",
                "landscape",
                ["--run=run", "--report=page.html"],
                _changed_search(key, value),
            )
            for key in ("settings", "epoch", "alphas_normal", "metrics")
            for words, value in {
                "missing": None,
                "a word": "x",
                "huge": 2**62,
                "a list": [[1]],
                "empty": {},
            }.items()
        ),
        *(
            Case(
                f"a data set of {count} images",
                "fit",
                [*_BASE["fit"][1:], "--dataset=./set"],
                _counted_set(count),
            )
            for count in ("-5", "0", str(10**30), "x")
        ),
    ]


def _bomb(folder):
    with (
        zipfile.ZipFile(folder / "bomb.keras", "w", zipfile.ZIP_DEFLATED) as file,
        file.open("config.json", "w") as member,
    ):
        for _ in range(300):
            member.write(bytes(2**20))


def _changed_search(key, value):
    def prepare(folder):
        make_search(folder / "run")
        path = folder / "run" / "genotypes" / "epoch_0002.json"
        genotype = read_json(path)
        if value is None:
            del genotype["provenance"][key]
        else:
            genotype["provenance"][key] = value
        write_json(path, genotype)

    return prepare


def _counted_set(count):
    def prepare(folder):
        (source,) = (ROOT / "advrush_tf" / "data" / "digits").rglob("dataset_info.json")
        target = folder / "set"
        target.mkdir()
        for path in source.parent.iterdir():
            (target / path.name).write_bytes(path.read_bytes())
        info = json.loads(source.read_text())
        info["splits"][0]["shardLengths"] = [count]
        (target / source.name).write_text(json.dumps(info))

    return prepare


def fault_of(ending):
    """Returns what is wrong with a `CompletedProcess`, None if nothing is."""
    code, errors = ending.returncode, ending.stderr
    lines = [line for line in errors.splitlines() if not _LOGGED.match(line)]
    if "Traceback" in errors:
        return f"traceback: {lines[-1][:200]}"
    if code == -signal.SIGKILL or (code == 0 and not lines):
        return None  # The value was not bad after all.
    if code not in (1, 2):
        return f"exit code {code}"
    if len(lines) != 1 or len(lines[0]) > _LONGEST or "{{" in errors:
        return f"{len(lines)} lines: {errors[:200]!r}"
    return None


def tried(case, scratch):
    """Runs a case in a new folder below `scratch`; gives how it ended."""
    folder = Path(tempfile.mkdtemp(dir=scratch))
    case.prepare(folder)
    return launch(case.launcher, *case.arguments, folder=folder, seconds=_SECONDS)


def case_faults(cases, scratch):
    """Yields for each case what was wrong, None if nothing was."""

    def fault(case):
        found = fault_of(tried(case, scratch))
        return found and f"{case.launcher}: {case.name}: {found}"

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        yield from threads.map(fault, cases)


_SMALL = ["--dataset=digits", "--init_channels=1", "--num_cells=1"]
_SEARCH = [
    *(*_SMALL, "--num_nodes=1", "--primitives=none,skip_connect,sep_conv_3x3"),
    *("--stem_multiplier=1", "--epochs=2", "--warmup_epochs=1", "--batch_size=256"),
]
_IMAGES = ["--dataset=digits", "--model=fit/model.keras", "--epsilon=1/20"]
# One small run of each kind, the files that it reads back, and how.
_RUNS = {
    "search": (
        _SEARCH,
        {
            "settings.json": read_json,
            "genotype.json": read_json,
            "genotypes/epoch_0001.json": read_json,
            "checkpoints/epoch_0002.npz": read_arrays,
        },
    ),
    "fit": (
        [
            *(*_SMALL, "--genotype=search/genotype.json", "--epochs=1"),
            *("--objective=standard", "--eval_steps=1", "--test_images=20"),
        ],
        {
            "fit.json": read_json,
            "genotype.json": read_json,
            "checkpoints/epoch_0001.npz": read_arrays,
            "model.keras": lambda path: load_classifier(path).get_weights(),
        },
    ),
    "attack": (
        [*_IMAGES, "--attacks=fgsm", "--test_images=20", "--nochecks"],
        {"results.json": read_json, "trials/0_fgsm_1of20.npz": read_arrays},
    ),
    "landscape": (
        [
            *(*_IMAGES, "--model=search", "--test_images=2", "--lanczos_steps=2"),
            *("--top=1", "--surface_points=3", "--cut_points=4", "--path_epochs=0"),
            *("--sample_genotypes=4", "--sample_images=4"),
            "--sample_curvature_images=2",
        ],
        {
            "inspection.json": read_json,
            "measured/sampled.json": read_json,
            "measured/model_0.npz": read_arrays,
        },
    ),
}
# Of a checkpoint's many arrays.
_MOST_HEADER_BITS = 10_000


def bit_faults(scratch):
    """Yields for each flipped bit what was wrong, None if nothing was.

    Of every file that a run reads back, the bits of headers and 2,000 drawn at random:
    each is noticed, or the same is read.
    """
    for name, (flags, files) in _RUNS.items():
        ending = launch(name, *flags, f"--workdir={name}", folder=scratch)
        assert ending.returncode == 0, ending.stderr
        for file, read in files.items():
            path, bits = scratch / name / file, []
            if zipfile.is_zipfile(path):
                bits = header_bits(path)
                if len(bits) > _MOST_HEADER_BITS:
                    bits = random.Random(0).sample(bits, _MOST_HEADER_BITS)
            yield from flip_faults(path, read, [*bits, *random_bits(path, 2000)])


def kill_faults(scratch):
    """Yields for each interruption of a search what was wrong, None if nothing was.

    Ctrl-C at any moment is one line and code 130; SIGKILL at any moment leaves a folder
    in which the same command ends with the same genotype.
    """
    seconds = _duration(_start(_SEARCH, scratch / "whole"))
    whole = _found(scratch / "whole")
    for number in range(6):
        workdir = scratch / f"killed_{number}"
        moment = seconds * (number + 1) / 7
        for which in (signal.SIGINT, signal.SIGKILL):
            process = _start(_SEARCH, workdir)
            time.sleep(moment)
            process.send_signal(which)
            errors = process.communicate()[1]
            ended = (process.returncode, len(errors.splitlines()))
            good = which == signal.SIGKILL or ended in ((130, 1), (0, 0))
            yield None if good else f"{which.name} after {moment:.1f} s: {errors[:300]}"
        errors = (again := _start(_SEARCH, workdir)).communicate()[1]
        same = again.returncode == 0 and _found(workdir) == whole
        yield None if same else f"not resumed after {moment:.1f} s: {errors[:300]}"


def _start(flags, workdir):
    return subprocess.Popen(
        [sys.executable, "launch/search.py", *flags, f"--workdir={workdir}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def _duration(process):
    started = time.monotonic()
    process.communicate()
    return time.monotonic() - started


def _found(workdir):
    (last,) = sorted((workdir / "checkpoints").glob("*_0002.npz"))
    return {name: array.tobytes() for name, array in read_arrays(last).items()}


# Each takes an empty folder and yields for each case what was wrong, or None.
TABLES = {
    "flags": lambda scratch: case_faults(flag_cases(), scratch),
    "files": lambda scratch: case_faults(file_cases(), scratch),
    "hostile": lambda scratch: case_faults(hostile_cases(), scratch),
    "bits": bit_faults,
    "kills": kill_faults,
}


def main():
    """Tries the tables that the command line names, all by default."""
    total, bad = 0, 0
    for name in sys.argv[1:] or TABLES:
        started, count, faults = time.monotonic(), 0, 0
        with tempfile.TemporaryDirectory() as scratch:
            for fault in TABLES[name](Path(scratch)):
                count += 1
                if fault:
                    faults += 1
                    print(fault, flush=True)
        seconds = time.monotonic() - started
        print(
            f"{name}: {count} tried, {count - faults} held, {seconds:.0f} s", flush=True
        )
        total, bad = total + count, bad + faults
    print(f"all: {total} tried, {total - bad} held")
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
