"""Checks everything on a GPU, and prints one table to send back.

Run by `make gpu_check`, on a machine with a GPU, for about half an hour; ends with code
1 if something did not hold. `--device=CPU` tries the checks themselves, on a processor.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import advrush_tf

# isort: split
import keras
import numpy as np
import tensorflow as tf

from support.gpu_kernels import operations_without_gpu_kernel
from support.processes import ROOT

# Recorded numbers, and both derivatives of every kernel. They run where TensorFlow
# places them, on the GPU.
_TESTS = """
    nn/test_kernels.py nn/test_batch_norm.py nn/test_mixed_op.py nn/test_supernet.py
    nn/test_cell_network.py official/test_weights.py search/test_penalty.py
    search/test_step.py fit/test_objectives.py fit/test_all_objectives.py
    landscape/test_meter.py attacks/test_all_attacks.py
"""
_BENCHMARKS = ("--part=search", "--part=search --jit_compile", "--part=fit")
# Of a penalised step's gradient in float32, relative to its largest value: kinks.
_ROUNDING = 0.03
_STEPS = 20


class Row(NamedTuple):
    """A line of the table; `held` is None where there is nothing to hold."""

    check: str
    result: str
    held: bool | None = None


def _machine(device: str) -> Iterator[Row]:
    yield Row("TensorFlow", tf.version.VERSION)
    for name in ("cuda_version", "cudnn_version"):
        yield Row(name, str(tf.sysconfig.get_build_info().get(name)))
    for each in tf.config.list_physical_devices(device):
        details = tf.config.experimental.get_device_details(each)
        yield Row(each.name, ", ".join(f"{n} {v}" for n, v in details.items()))


def _batch() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.random((8, 16, 16, 3), np.float32), np.arange(8, dtype=np.int32) % 4


def _search(jit_compile: bool = False, like=None, dtype: str = "float32"):
    """A small search model, with the weights of another."""
    keras.utils.set_random_seed(0)
    model = advrush_tf.AdvRushSearchModel(4, (16, 16, 3), 4, 3, dtype=dtype)
    if like:
        model.set_weights(like.get_weights())
    model.compile(jit_compile=jit_compile)
    return model


def _penalised(model) -> np.ndarray:
    """The alphas' whole gradient."""
    x, y = _batch()
    batch = tf.constant(x, model.variable_dtype), tf.constant(y)
    parts = [model.steps[f"{name}_gradients"](*batch) for name in ("alpha", "penalty")]
    flat = [np.ravel(np.float64(value)) for value in tf.nest.flatten(parts)]
    return np.concatenate(flat)


def _all_operations(device: str) -> Iterator[Row]:
    del device
    x, y = _batch()
    network = advrush_tf.CellNetwork("ADVRUSH", 4, (16, 16, 3), 4, 3)
    fit = advrush_tf.AdvRushFitModel(network, advrush_tf.TRADES(), awp_gamma=0.01)
    fit.compile()
    attack = advrush_tf.AutoAttack(network, epsilon=8 / 255)
    works: dict[str, Callable[[], object]] = {
        "penalised step": lambda: _penalised(_search()),
        "fit": lambda: fit.train_on_batch(x, y),
        "AutoAttack": lambda: attack.run(x, y),
        "curvature": lambda: advrush_tf.measure_curvature(network, x, y),
    }
    for name, work in works.items():
        with operations_without_gpu_kernel() as found:
            work()
        yield Row(f"{name}: only on CPUs", ", ".join(sorted(found)) or "-", not found)


def _penalised_steps(device: str) -> Iterator[Row]:
    with tf.device("CPU:0"):
        first = _search()
        expected = _penalised(_search(like=first, dtype="float64"))
    for jit_compile in (False, True):
        with tf.device(f"{device}:0"):
            model = _search(jit_compile, first)
            found = _penalised(model)
            started = time.perf_counter()
            _penalised(model)
        seconds = time.perf_counter() - started
        error = np.abs(found - expected).max() / np.abs(expected).max()
        yield Row(
            "penalised step, XLA " + ("on" if jit_compile else "off"),
            f"{seconds:.3f} s, off a processor's float64 by {error:.1e}",
            bool(error < _ROUNDING),
        )


def _memory_growth(device: str) -> Iterator[Row]:
    if not tf.config.list_physical_devices("GPU"):
        return
    model, used = _search(), []
    for _ in range(_STEPS):
        _penalised(model)
        used.append(tf.config.experimental.get_memory_info(f"{device}:0")["current"])
    yield Row(
        f"memory after 2 and {_STEPS} steps",
        f"{used[1] / 1e6:.1f} and {used[-1] / 1e6:.1f} MB",
        used[-1] <= used[1],
    )


def _python(*arguments: str) -> subprocess.CompletedProcess:
    # Products in TensorFloat-32 have three digits, where tests compare six.
    environment = os.environ | {"NVIDIA_TF32_OVERRIDE": "0"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )


def _tests(device: str) -> Iterator[Row]:
    del device
    for name in _TESTS.split():
        run = _python("-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/{name}")
        for line in run.stdout.splitlines():
            if line.startswith("FAILED"):
                yield Row("", line, False)
        yield Row(name, (run.stdout.splitlines() or ["-"])[-1], run.returncode == 0)


def _benchmarks(device: str) -> Iterator[Row]:
    del device
    for flags in _BENCHMARKS:
        run = _python("launch/benchmark.py", *flags.split())
        for line in run.stdout.splitlines()[2:]:
            _, kind, nodes, tracing, first, step, memory = line.split("|")[1:-1]
            numbers = f"{nodes} nodes, {tracing} + {first} + {step} s, {memory} GB"
            yield Row(f"{flags}: {kind.strip()}", " ".join(numbers.split()))
        if run.returncode:
            yield Row(flags, run.stderr.splitlines()[-1], False)


CHECKS = {
    "machine": _machine,
    "operations": _all_operations,
    "steps": _penalised_steps,
    "memory": _memory_growth,
    "tests": _tests,
    "benchmarks": _benchmarks,
}


def main() -> None:
    """Prints the table of the checks that the command line names, all by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checks", nargs="*", help=f"of {', '.join(CHECKS)}")
    parser.add_argument("--device", default="GPU", choices=("GPU", "CPU"))
    given = parser.parse_args()
    if unknown := sorted({*given.checks} - {*CHECKS}):
        parser.error(f"no check {', '.join(unknown)}; there are {', '.join(CHECKS)}")
    if not tf.config.list_physical_devices(given.device):
        sys.exit(
            "error: TensorFlow finds no GPU here; `pip install tensorflow[and-cuda]`"
        )
    print("| check | result | held |\n|---|---|---|", flush=True)
    bad = 0
    for name in given.checks or CHECKS:
        for row in CHECKS[name](given.device):
            bad += row.held is False
            held = {None: "", True: "yes", False: "NO"}[row.held]
            result = row.result.replace("|", "/")
            print(f"| {row.check} | {result} | {held} |", flush=True)
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
