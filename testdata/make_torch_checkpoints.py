"""Makes testdata/checkpoints: files of the forms in which official ones are saved.

Run `python testdata/make_torch_checkpoints.py`; it needs PyTorch (made with 2.13.0),
which nothing else here needs. The networks' numbers are those of testdata/golden. The
older format names storages by their address, so bytes differ from run to run.
"""

import argparse
import io
import json
import lzma
import math
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch

_GOLDEN = Path(__file__).resolve().parent / "golden"


def _golden(name: str) -> tuple[dict[str, np.ndarray], dict[str, torch.Tensor]]:
    """All arrays of a file of reference numbers, and the state dictionary in it."""
    with np.load(_GOLDEN / f"{name}.npz", allow_pickle=False) as file:
        stored = dict(file)
    entries = json.loads(stored["index"].item())["state"]
    ends = np.cumsum([math.prod(shape) for _, shape in entries])
    pieces = np.split(stored["state/__packed__"], ends)
    state = OrderedDict()
    for (key, shape), piece in zip(entries, pieces[:-1], strict=True):
        dtype = np.int64 if key.endswith("num_batches_tracked") else np.float32
        state[key] = torch.tensor(piece.reshape(shape).astype(dtype))
    # As in a real state dictionary; it becomes a pickled attribute.
    state._metadata = OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]
    return stored, state


def _optimizer(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The state of a real optimizer after a step, with momentum for two weights."""
    weights = [torch.nn.Parameter(state[key].clone()) for key in list(state)[:2]]
    optimizer = torch.optim.SGD(weights, lr=0.1, momentum=0.9)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    return optimizer.state_dict()


def _evaluation() -> dict[str, Any]:
    """As official training saves it, but of a model on several devices."""
    _, state = _golden("evalnet_advrush_c4_l5_s1")
    parallel = OrderedDict((f"module.{key}", value) for key, value in state.items())
    return {
        "epoch": 7,
        "state_dict": parallel,
        "best_acc_top1": np.float64(87.5),
        "optimizer": _optimizer(state),
    }


def _search() -> dict[str, Any]:
    """As the official search saves it, after the first recorded step of the alphas."""
    stored, state = _golden("trajectory_c2_l5_s1")
    tables = {
        f"alpha_{cell}": torch.tensor(
            stored[f"A/alphas_{cell}"][0].astype(np.float32), requires_grad=True
        )
        for cell in ("normal", "reduce")
    }
    return {
        "epoch": 1,
        "model_optimizer": _optimizer(state),
        "arch_optimizer": _optimizer(tables),
        "model": state,
        "scheduler": {"T_max": 60.0, "base_lrs": [0.025], "last_epoch": 0},
        **tables,
    }


def _kinds() -> dict[str, Any]:
    """Tensors of all kinds: each is `arange`, or two of its rows transposed."""
    shared = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    types = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool"
    return {
        "whole": shared,
        "transposed": shared.permute(2, 0, 1),
        "strided": shared[:, ::2, 1::2],
        "parameter": torch.nn.Parameter(shared[1, 2]),
        "scalar": shared[1, 1, 1],
        "empty": torch.zeros(0, 3),
        **{name: torch.arange(6).to(getattr(torch, name)) for name in types.split()},
    }


def make_checkpoints(folder: Path) -> None:
    """Writes the files to an existing folder."""
    old: dict[str, Any] = {"_use_new_zipfile_serialization": False}
    torch.save(_evaluation(), folder / "evaluation.pth.tar", **old)
    torch.save(_golden("evalnet_darts_v2_c4_l5_s1")[1], folder / "weights.pt")
    torch.save(_kinds(), folder / "kinds_zip.pt")
    torch.save(_kinds(), folder / "kinds_old.pt", **old)
    buffer = io.BytesIO()
    torch.save(_search(), buffer, **old)
    packed = lzma.compress(buffer.getvalue(), preset=9)
    (folder / "search.pth.tar.xz").write_bytes(packed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(__file__).resolve().parent / "checkpoints",
        help="folder in which the files are written",
    )
    output = parser.parse_args().output
    output.mkdir(exist_ok=True)
    make_checkpoints(output)
