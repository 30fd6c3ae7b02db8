import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_a_table_of_both_supernets():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    flags = ["--init_channels=2", "--num_cells=1", "--image_size=8", "--repeats=1"]
    result = subprocess.run(
        [sys.executable, "launch/benchmark.py", *flags, "--batch_size=4"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in result.stdout.splitlines()
    ]
    kinds = ["weights", "alphas", "penalised alphas"]
    expected = [[name, kind] for name in ("batched", "edge by edge") for kind in kinds]
    assert [row[:2] for row in rows[2:]] == expected
    nodes = [int(row[2].replace(",", "")) for row in rows[2:]]
    assert all(
        batched < single for batched, single in zip(nodes[:3], nodes[3:], strict=True)
    )
    assert all(float(value) > 0 for row in rows[2:] for value in row[3:])
