import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_a_table_of_three_parts():
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
    rows = [line.split("|")[1:-1] for line in result.stdout.splitlines()]
    assert [row[0].strip() for row in rows[2:]] == ["weights", "alphas", "penalty"]
    assert all(float(row[2]) > 0 for row in rows[2:])
