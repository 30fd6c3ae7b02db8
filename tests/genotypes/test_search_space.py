import numpy as np
import pytest

from advrush_tf.genotypes import search_space as cells

NAMES = ("none", "skip_connect", "sep_conv_3x3")


@pytest.mark.parametrize(
    ("nodes", "edges"), [(1, 2), (2, 5), (3, 9), (4, 14), (5, 20), (8, 44)]
)
def test_numbers_of_nodes_and_edges(nodes, edges):
    assert cells.num_edges(nodes) == edges == sum(range(2, nodes + 2))
    assert cells.num_nodes_for(edges) == nodes


@pytest.mark.parametrize("edges", [0, 1, 3, 4, 13, 15])
def test_other_numbers_of_edges_fit_no_cell(edges):
    assert cells.num_nodes_for(edges) is None


def test_strongest_edges_worked_by_hand():
    # Node 0 has two edges to begin with; node 1 leaves out state 1, its weakest.
    # In row 3 `none` takes most of the mass, so that its 9 counts for less than
    # the 1 of row 4 (softmax: 0.27 against 0.58).
    alphas = [
        [0.0, 1.0, 2.0],
        [0.0, 4.0, 1.0],
        [0.0, 3.0, 1.0],
        [10.0, 9.0, 0.0],
        [0.0, 0.0, 1.0],
    ]
    assert cells.strongest_edges("normal", alphas, NAMES) == (
        ("skip_connect", 1),
        ("sep_conv_3x3", 0),
        ("skip_connect", 0),
        ("sep_conv_3x3", 2),
    )


def test_ties_go_to_the_earlier_state_and_operation():
    edges = cells.strongest_edges("normal", np.zeros((9, 3)), NAMES)
    assert edges == (("skip_connect", 0), ("skip_connect", 1)) * 3


@pytest.mark.parametrize("seed", range(10))
def test_ties_among_many_states_go_to_the_earliest(seed):
    nodes = 20
    alphas = np.zeros((cells.num_edges(nodes), 3))
    alphas[:, 1] = np.random.RandomState(seed).randint(1, 4, len(alphas))
    edges = cells.strongest_edges("normal", alphas, NAMES)
    last = alphas[-nodes - 1 :, 1].tolist()  # of the edges into the last node
    best = sorted(range(nodes + 1), key=lambda state: -last[state])[:2]
    assert edges[-2:] == tuple(("skip_connect", state) for state in best)


def test_columns_follow_the_primitives():
    alphas = np.zeros((2, 3))
    alphas[:, 0] = 1
    names = ("conv_7x1_1x7", "none", "sep_conv_7x7")
    edges = cells.strongest_edges("reduce", alphas, names)
    assert edges == (("conv_7x1_1x7", 0), ("conv_7x1_1x7", 1))
    edges = cells.strongest_edges("reduce", -alphas[:, :2], ("skip_connect", names[0]))
    assert edges == (("conv_7x1_1x7", 0), ("conv_7x1_1x7", 1))


def test_large_alphas_do_not_overflow():
    alphas = np.array([[0.0, 1e4, -1e4], [0.0, -1e4, 1e4]])
    edges = cells.strongest_edges("normal", alphas, NAMES)
    assert edges == (("skip_connect", 0), ("sep_conv_3x3", 1))


@pytest.mark.parametrize(
    ("alphas", "message"),
    [
        (np.zeros((14, 4)), r"shape \(14, 4\).* 3 columns"),
        (np.zeros(14), r"shape \(14,\)"),
        (np.zeros((13, 3)), "13 rows.* 2, 5, 9, 14"),
        (np.zeros((0, 3)), "0 rows"),
        (np.full((2, 3), np.nan), "normal alphas.* not finite"),
        (np.full((2, 3), np.inf), "not finite"),
    ],
)
def test_alphas_that_fit_no_cell_are_refused(alphas, message):
    with pytest.raises(ValueError, match=message):
        cells.strongest_edges("normal", alphas, NAMES)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("none", "conv_1x1"), "'conv_1x1'; choose from none, max_pool_3x3"),
        (("skip_connect", "skip_connect"), "only once"),
        (("none",), "besides `none`"),
        ((), "at least one"),
    ],
)
def test_primitives_are_checked(names, message):
    with pytest.raises(ValueError, match=message):
        cells.check_primitives(names)


def test_checked_edges_become_plain_tuples():
    edges = cells.checked_edges("normal", [["skip_connect", np.int64(1)]] * 2)
    assert edges == (("skip_connect", 1), ("skip_connect", 1))
    assert {type(state) for _, state in edges} == {int}


def test_pairs_may_be_grouped_by_node():
    pairs = [("skip_connect", 0), ("none", 1), ("none", 2), ("sep_conv_3x3", 0)]
    grouped = [pairs[:2], tuple(pairs[2:])]
    assert cells.checked_edges("normal", grouped) == tuple(pairs)


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([("sep", 0), ("skip_connect", 1)], "'sep'.*skip_connect, sep_conv_3x3"),
        ([("skip_connect", 0), ("skip_connect", 2)], "Node 0 .* states 0 to 1"),
        ([("skip_connect", 0), ("skip_connect", -1)], "cannot read state -1"),
        ([("skip_connect", 0), ("skip_connect", 0.5)], "cannot read state 0.5"),
        ([("skip_connect", 0), ("skip_connect", True)], "cannot read state True"),
        ([("skip_connect", 0)] * 3, "3 edges; it needs two"),
        ([], "0 edges"),
        ([("skip_connect",)], "is a pair"),
        ([()], "is a pair"),
        (["ab"], "is a pair .* not 'ab'"),
        ([7], "must be a list"),
        (7, "The normal cell must be a list, not 7"),
    ],
)
def test_damaged_edges_are_refused(edges, message):
    with pytest.raises(ValueError, match=message):
        cells.checked_edges("normal", edges)


def test_checked_concat_keeps_its_order():
    assert cells.checked_concat("normal", [3, np.int32(2)], 2) == (3, 2)


@pytest.mark.parametrize("concat", [[], [1, 2], [2, 2], [4], ["2"], [2.0]])
def test_outputs_that_do_not_exist_are_refused(concat):
    with pytest.raises(ValueError, match="reduce cell joins states from 2 to 3"):
        cells.checked_concat("reduce", concat, 2)
