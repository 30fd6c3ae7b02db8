import pytest

from advrush_tf.errors import UserError
from advrush_tf.runs.search_settings import SearchSettings
from advrush_tf.search.penalty import Penalty


def test_defaults_are_the_official_recipe():
    settings = SearchSettings()
    assert (settings.batch_size, settings.epochs, settings.warmup_epochs) == (
        32,
        60,
        50,
    )
    assert (settings.init_channels, settings.num_cells) == (16, 8)
    assert (settings.gamma, settings.lambda_, settings.h) == (0.01, 4.0, 1.5)
    assert (settings.learning_rate, settings.learning_rate_min) == (0.025, 0.001)
    assert (settings.alpha_learning_rate, settings.alpha_l2) == (3e-4, 1e-3)
    assert settings.penalty is Penalty.NORM


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", 0),
        ("epochs", -1),
        ("warmup_epochs", 60),
        ("gamma", -0.1),
        ("h", 0.0),
        ("train_portion", 1.0),
        ("momentum", 1.0),
        ("learning_rate", 0.0),
        ("learning_rate_min", 0.5),
        ("cutout", -1),
        ("seed", -1),
        ("seed", 2**32),
        ("clip_norm", float("inf")),
        ("learning_rate", float("inf")),
        ("gamma", float("nan")),
        ("alpha_beta_1", 1.0),
        ("primitives", ("none",)),
        ("primitives", ("sep_conv_9x9",)),
        ("penalty_batch", -8),
        ("penalty_batch", 12),
        ("penalty_batch", 64),
    ],
)
def test_out_of_range_values_are_named(name, value):
    with pytest.raises(UserError, match=name):
        SearchSettings(**{name: value})


def test_a_penalty_batch_divides_the_batch():
    assert SearchSettings(batch_size=24, penalty_batch=8).penalty_batch == 8
    with pytest.raises(UserError, match=r"penalty_batch is 5.* batch_size, 24"):
        SearchSettings(batch_size=24, penalty_batch=5)


@pytest.mark.parametrize(
    "penalty_batch, replicas, allowed",
    [(0, 4, True), (2, 4, True), (12, 4, True), (4, 4, False), (4, 2, True)],
)
def test_a_penalty_batch_divides_a_replicas_part(penalty_batch, replicas, allowed):
    settings = SearchSettings(batch_size=24, penalty_batch=penalty_batch)
    if allowed:
        settings.check_replicas(replicas)
        return
    with pytest.raises(UserError, match=r"penalty_batch is 4.* divisor of 6"):
        settings.check_replicas(replicas)


def test_recomputation_is_not_for_xla():
    SearchSettings(recompute_cells=True)
    with pytest.raises(UserError, match=r"recompute_cells is True.* --jit_compile"):
        SearchSettings(recompute_cells=True, jit_compile=True)
