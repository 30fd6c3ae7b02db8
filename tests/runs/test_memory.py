"""The memory that a run needs at least."""

import pytest
import tensorflow as tf

from advrush_tf.data.dataset import load_dataset
from advrush_tf.errors import UserError
from advrush_tf.runs import memory
from advrush_tf.runs.fit import build_network, find_genotype
from advrush_tf.runs.memory import check_memory, least_bytes, memory_bytes
from advrush_tf.runs.profiling import count_parameters
from advrush_tf.runs.recipes import fit_settings
from advrush_tf.runs.search import build_model
from advrush_tf.runs.search_settings import SearchSettings


def test_a_bound_by_hand():
    # Cells of 5, 10 and 20 channels, whose images have 64, 16 and 4 pixels.
    weights = 2 * (25 + 100 + 400)
    outputs = 4 * (5 * 64 + 10 * 16 + 20 * 4)
    assert least_bytes(7, 64, 5, 3, 4) == 12 * weights + 2 * 7 * outputs
    assert least_bytes(7, 64, 5) == 12 * 2 * 10**2 + 2 * 7 * 10 * 16


@pytest.mark.parametrize(
    "changes",
    [{"num_cells": 3}, {"network": "resnet18", "genotype": None}],
)
def test_networks_have_more_weights_than_the_bound(changes):
    settings = fit_settings(dataset="digits", init_channels=4, **changes)
    genotype = find_genotype(settings)
    network = build_network(settings, load_dataset("digits"), genotype)
    least = least_bytes(0, 64, 4, changes.get("num_cells", 1), 4)
    assert 12 * count_parameters(network.trainable_variables) > least


def test_what_the_machine_cannot_hold_is_refused_before_it_is_built():
    check_memory(memory_bytes())
    if tf.config.list_physical_devices("GPU"):
        pytest.skip("a GPU has other memory")
    dataset = load_dataset("digits")
    huge = {"dataset": "digits", "init_channels": 10**4, "num_cells": 1000}
    with pytest.raises(UserError, match=r"needs [\d,.]+ GB of memory or more, and "):
        build_model(SearchSettings(**huge), dataset)
    settings = fit_settings(**huge)
    with pytest.raises(UserError, match="Lower --init_channels"):
        build_network(settings, dataset, find_genotype(settings))


def test_a_control_group_may_have_less(monkeypatch, tmp_path):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "Path", lambda path: limit)
    machine = memory_bytes()
    for text, expected in (("1000\n", 1000), ("max\n", machine), ("9" * 30, machine)):
        limit.write_text(text)
        assert memory_bytes() == expected
