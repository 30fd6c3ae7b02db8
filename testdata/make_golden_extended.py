"""Makes two files of testdata/golden: of official networks with the rarer operations.

Run `python testdata/make_golden_extended.py FOLDER` with a clone of the official code
(nutellamok/advrush at a15b26a). It needs PyTorch (made with 2.14.1) and torchvision,
which nothing else here needs. The files hold, in float64, what the official modules
give for random weights: AmoebaNet's network, and a supernet with all ten primitives.
Arrays have the names and layouts of the other files there.
"""

import argparse
import contextlib
import importlib
import io
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

_GOLDEN = Path(__file__).resolve().parent / "golden"
_EXTENSION = ["sep_conv_7x7", "conv_7x1_1x7"]
_SEED = 2


@contextlib.contextmanager
def _official(folder: Path, name: str) -> Iterator[ModuleType]:
    """One of the official modules, which import each other by their bare names."""
    sys.path.insert(0, str(folder))
    # Its search moves the alphas to a GPU at once, and says what it builds.
    move, torch.Tensor.cuda = torch.Tensor.cuda, lambda tensor: tensor
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield importlib.import_module(name)
    finally:
        torch.Tensor.cuda = move
        sys.path.remove(str(folder))
        for file in folder.glob("*.py"):
            sys.modules.pop(file.stem, None)


def _fill(network: torch.nn.Module, rng: np.random.Generator) -> None:
    """Random weights and statistics; coarse, so that float32 can hold them."""
    for name, tensor in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        if name.endswith("running_var"):
            values = rng.uniform(0.5, 2, tensor.shape)
        elif tensor.ndim == 1:
            values = rng.normal(float(name.endswith("weight")), 0.2, tensor.shape)
        else:
            deviation = np.prod(tensor.shape[1:]) ** -0.5
            values = rng.normal(0, deviation, tensor.shape)
        tensor.copy_(_coarse(values))


def _coarse(values: np.ndarray) -> torch.Tensor:
    return torch.tensor(np.round(256 * values) / 256)


def _batch(rng: np.random.Generator, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    images = rng.normal(size=(3, 3, size, size)).astype(np.float32)
    return torch.tensor(images), torch.tensor(rng.integers(0, 10, 3))


def _state(network: torch.nn.Module) -> tuple[np.ndarray, list[Any]]:
    """The state dictionary in one vector, and the name and shape of each entry."""
    state = network.state_dict()
    vector = torch.cat([value.flatten().double() for value in state.values()])
    entries = [(name, list(value.shape)) for name, value in state.items()]
    return vector.numpy().astype(np.float32), entries


def _numbers(tensors: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.detach().double().numpy() for name, tensor in tensors.items()}


def _network(
    network: torch.nn.Module, x: torch.Tensor, y: torch.Tensor
) -> dict[str, np.ndarray]:
    """The numbers of an evaluation network that the files hold, in x's dtype."""
    network.to(x.dtype).eval()
    initial = network(x)
    network.train()
    logits = network(x)
    loss = cross_entropy(logits, y)
    network.zero_grad()
    loss.backward()
    weights = dict(network.named_parameters())
    gradients = {name: weight.grad for name, weight in weights.items()}
    norm = torch.cat([gradient.flatten() for gradient in gradients.values()]).norm()
    network.eval()
    return _numbers(
        {
            "logits_eval_initial": initial,
            "logits_train": logits,
            "loss_train": loss,
            "grad_train_norm": norm,
            "grad_train_stem_weight": gradients["stem.0.weight"],
            "grad_train_classifier_weight": gradients["classifier.weight"],
            "logits_eval": network(x),
        }
    )


def _supernet(
    network: torch.nn.Module, x: torch.Tensor, y: torch.Tensor
) -> dict[str, np.ndarray]:
    """The numbers of a supernet that the files hold, in x's dtype."""
    network.to(x.dtype).train()
    alphas = {}
    for name in ("alphas_normal", "alphas_reduce"):
        values = getattr(network, name).detach().to(x.dtype).requires_grad_()
        setattr(network, name, values)
        alphas[name] = values
    logits = network(x)
    loss = cross_entropy(logits, y)
    gradients = torch.autograd.grad(loss, list(alphas.values()))
    network.eval()
    return _numbers(
        {
            **alphas,
            "logits_train": logits,
            "loss_train": loss,
            **{f"grad_train_{n}": g for n, g in zip(alphas, gradients, strict=True)},
            "logits_eval": network(x),
        }
    )


def _record(path: Path, make: Any, measure: Any, size: int, meta: Any) -> None:
    """Writes a file: weights, batch, numbers and what float32 makes of them."""
    x, y = _batch(np.random.default_rng(_SEED + 1), size)
    exact, (vector, entries) = _measured(make, measure, x.double(), y)
    single, _ = _measured(make, measure, x, y)
    deviation = {
        key: [float(np.abs(single[key] - value).max()), float(np.abs(value).max())]
        for key, value in exact.items()
    }
    described = {
        **meta,
        "float32_deviation": deviation,
        "torch_version": torch.__version__,
    }
    arrays = {"state/__packed__": vector, **exact, "x": x.numpy(), "y": y.numpy()}
    texts = {"index": {"state": entries}, "meta": described}
    packed = {key: np.asarray(json.dumps(text)) for key, text in texts.items()}
    np.savez_compressed(path, **arrays, **packed)


def _measured(make: Any, measure: Any, x: torch.Tensor, y: torch.Tensor) -> Any:
    network = make().double()
    network.drop_path_prob = 0.0
    _fill(network, np.random.default_rng(_SEED))
    # Before the batch moves the running statistics.
    state = _state(network)
    return measure(network, x, y), state


def main(official: Path, output: Path) -> None:
    """Writes both files.

    Args:
        official: a clone of the official code.
        output: the folder of the files.
    """
    common = {"C": 2, "layers": 3, "classes": 10, "batch": 3}
    with _official(official / "eval", "model") as model:
        from genotypes import AmoebaNet  # type: ignore[import-not-found]

        _record(
            output / "evalnet_amoebanet_c2_l3_s2.npz",
            lambda: model.NetworkCIFAR(2, 10, 3, False, AmoebaNet),
            _network,
            16,
            {
                "config": {**common, "case": "evalnet", "image": 16},
                "genotype": AmoebaNet._asdict(),
            },
        )
    with _official(official / "advrush", "genotypes") as genotypes:
        genotypes.PRIMITIVES.extend(_EXTENSION)
        model = importlib.import_module("model_search")
        rng = np.random.default_rng(_SEED + 2)
        alphas = [_coarse(rng.normal(0, 0.5, (14, 10))) for _ in range(2)]

        def make() -> torch.nn.Module:
            supernet = model.Network(2, 10, 3, None)
            supernet.alphas_normal, supernet.alphas_reduce = alphas
            return supernet

        _record(
            output / "supernet_extended_c2_l3_s2.npz",
            make,
            _supernet,
            12,
            {
                "config": {**common, "case": "supernet", "image": 12},
                "primitives": list(genotypes.PRIMITIVES),
            },
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("official", type=Path, help="a clone of the official code")
    parser.add_argument("--output", type=Path, default=_GOLDEN, help="their folder")
    arguments = parser.parse_args()
    main(arguments.official.resolve(), arguments.output)
