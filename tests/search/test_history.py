import numpy as np
import pytest

from advrush_tf.errors import UserError
from advrush_tf.files import read_json, write_json
from advrush_tf.search.history import SearchHistory, is_search, read_history
from support.workdirs import EPOCHS, METRICS, PRIMITIVES, make_search


@pytest.fixture
def workdir(tmp_path):
    return make_search(tmp_path)


@pytest.fixture
def history(workdir):
    return read_history(workdir)


def _change(workdir, epoch, /, **changes):
    """Replaces entries of an epoch's provenance, or takes them out where None."""
    path = workdir / "genotypes" / f"epoch_{epoch:04d}.json"
    genotype = read_json(path)
    provenance = genotype["provenance"] | changes
    genotype["provenance"] = {n: v for n, v in provenance.items() if v is not None}
    write_json(path, genotype)


def _with_weights(rows):
    weights = np.array(rows, float)[np.newaxis]
    return SearchHistory(np.array([1]), (), {"normal": weights}, {}, {})


def test_a_history_has_all_epochs(history):
    np.testing.assert_array_equal(history.epochs, [1, 2, 3])
    assert history.primitives == PRIMITIVES
    assert history.settings["warmup_epochs"] == 2
    assert len(history.genotypes) == 3
    for name, values in METRICS.items():
        np.testing.assert_array_equal(history.metrics[name], values)


def test_epochs_rise_beyond_four_digits(workdir):
    path = workdir / "genotypes" / "epoch_10000.json"
    path.write_text((workdir / "genotypes" / "epoch_0003.json").read_text())
    _change(workdir, 10000, epoch=10000)
    (workdir / "genotypes" / "epoch_0001.json").rename(path.parent / "epoch_9999.json")
    _change(workdir, 9999, epoch=9999)
    np.testing.assert_array_equal(read_history(workdir).epochs, [2, 3, 9999, 10000])


def test_weights_are_the_softmax_of_the_alphas(workdir):
    shares = np.array([[0.5, 0.25, 0.125, 0.125]] * 4 + [[0.1, 0.2, 0.3, 0.4]])
    # Alphas are known but for a constant, however large.
    _change(workdir, 2, alphas_reduce=(np.log(shares) + 1000).tolist())
    weights = read_history(workdir).weights
    np.testing.assert_allclose(weights["reduce"][1], shares, rtol=1e-12)
    assert weights["normal"].shape == (3, 5, 4)


@pytest.mark.parametrize(
    ("rows", "entropy"),
    [
        ([[0.25, 0.25, 0.25, 0.25]], np.log(4)),
        ([[0.0, 1.0, 0.0, 0.0]], 0.0),
        ([[0.5, 0.25, 0.25, 0.0]], 1.5 * np.log(2)),
        ([[0.25, 0.25, 0.25, 0.25], [0.0, 0.0, 0.0, 1.0]], np.log(4) / 2),
    ],
)
def test_entropy_is_the_mean_over_edges(rows, entropy):
    np.testing.assert_allclose(_with_weights(rows).entropy["normal"], [entropy])


def test_kept_edges_are_those_of_the_genotypes(history):
    expected = [{(node, state): name for node, state, name in kept} for kept in EPOCHS]
    assert history.kept("normal") == expected
    assert history.kept("reduce") == [expected[0]] * 3


def test_changes_are_new_edges_and_new_operations(history):
    edges, operations = history.changes("normal")
    np.testing.assert_array_equal(edges, [0, 1, 0])
    np.testing.assert_array_equal(operations, [0, 1, 0])
    for unchanged in history.changes("reduce"):
        np.testing.assert_array_equal(unchanged, [0, 0, 0])


def test_operations_are_counted(history):
    counts = history.counts("normal")
    assert list(counts) == ["max_pool_3x3", "skip_connect", "sep_conv_3x3"]
    np.testing.assert_array_equal(counts["skip_connect"], [3, 1, 1])
    np.testing.assert_array_equal(counts["sep_conv_3x3"], [0, 2, 2])


def test_what_an_epoch_does_not_tell_is_not_a_number(workdir):
    _change(workdir, 2, metrics=None)
    loss = read_history(workdir).metrics["loss"]
    np.testing.assert_array_equal(loss, [2.0, np.nan, 0.5])


def test_old_searches_have_no_metrics(tmp_path):
    history = read_history(make_search(tmp_path, metrics=None))
    assert history.metrics == {}
    assert history.entropy["normal"].shape == (3,)


def test_a_search_is_told_by_its_epochs(workdir, tmp_path_factory):
    assert is_search(workdir)
    other = tmp_path_factory.mktemp("other")
    assert not is_search(other)
    with pytest.raises(UserError, match="holds no search with a finished epoch"):
        read_history(other)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epoch": None}, "'epoch'"),
        ({"epoch": "two"}, "str"),
        ({"settings": None}, "'settings'"),
        ({"settings": [1]}, "TypeError"),
        ({"metrics": {"loss": "low"}}, "'low'"),
        ({"metrics": [1]}, "AttributeError"),
        ({"alphas_normal": [[0.0] * 4] * 2}, r"shape \(2, 4\), not \(5, 4\)"),
        ({"alphas_normal": [[0.0], [0.0, 1.0]]}, "ValueError"),
    ],
)
def test_a_damaged_epoch_is_named(workdir, changes, words):
    _change(workdir, 2, **changes)
    with pytest.raises(UserError, match=rf"epoch_0002.json is damaged .*{words}"):
        read_history(workdir)


@pytest.mark.parametrize("text", ["{", "[]", "\x00"])
def test_a_file_that_is_no_genotype_is_named(workdir, text):
    (workdir / "genotypes" / "epoch_0003.json").write_text(text)
    with pytest.raises(UserError, match=r"epoch_0003.json is damaged"):
        read_history(workdir)


def test_an_epoch_of_another_search_is_named(workdir, history):
    _change(
        workdir,
        3,
        settings={**history.settings, "primitives": [*PRIMITIVES], "seed": 9},
    )
    with pytest.raises(UserError, match=r"epoch_0003.json is of a search with other"):
        read_history(workdir)
