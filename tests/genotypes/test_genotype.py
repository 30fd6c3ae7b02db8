import copy
import json
import os
import pickle
from collections import Counter

import numpy as np
import pytest

from advrush_tf.genotypes import genotype as genotypes
from advrush_tf.genotypes.genotype import NAMED, Genotype
from support import golden

ALPHAS = golden.load("genotype_s1")
EXPECTED = json.loads(ALPHAS["genotypes"].item())
CELL = [
    ("skip_connect", 0),
    ("sep_conv_3x3", 1),
    ("dil_conv_5x5", 2),
    ("skip_connect", 0),
]


def small(**changes):
    cells = {
        "normal": CELL,
        "normal_concat": [2, 3],
        "reduce": CELL,
        "reduce_concat": [3],
    }
    return Genotype(**{**cells, **changes})


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("pair", range(20), ids=ALPHAS["meta"]["kinds"])
def test_derivation_agrees_with_the_official_one(pair, dtype):
    genotype = Genotype.from_alphas(
        ALPHAS["alphas_normal"][pair].astype(dtype),
        ALPHAS["alphas_reduce"][pair].astype(dtype),
    )
    cells = genotype.to_dict()
    del cells["provenance"]
    assert cells == EXPECTED[pair]


def test_derivation_follows_the_number_of_rows_and_keeps_provenance():
    rng = np.random.RandomState(0)
    for nodes, edges in ((1, 2), (2, 5), (6, 27)):
        normal, reduce = rng.standard_normal((2, edges, 8))
        genotype = Genotype.from_alphas(normal, reduce, provenance={"epoch": nodes})
        assert genotype.num_nodes == nodes
        assert genotype.normal_concat == tuple(range(2, nodes + 2))
        assert genotype.provenance == {"epoch": nodes}


def test_derivation_refuses_cells_of_different_size():
    with pytest.raises(ValueError, match="normal cell has 1 nodes and the reduction"):
        Genotype.from_alphas(np.zeros((2, 8)), np.zeros((5, 8)))


def test_derivation_names_the_cell_that_is_wrong():
    with pytest.raises(ValueError, match=r"reduce alphas have shape \(2, 7\)"):
        Genotype.from_alphas(np.zeros((2, 8)), np.zeros((2, 7)))


def test_lists_become_tuples():
    lists = small(normal=[list(edge) for edge in CELL])
    assert lists.normal == tuple(CELL)
    assert lists == small()
    assert hash(lists) == hash(small())


def test_equality_looks_at_the_cells_and_not_at_the_provenance():
    assert small(provenance={"seed": 1}) == small()
    assert hash(small(provenance={"seed": 1})) == hash(small())
    assert small(reduce_concat=[2]) != small()
    assert small(normal=[*CELL[:3], ("skip_connect", 1)]) != small()


def test_damaged_cells_are_refused_by_name():
    with pytest.raises(ValueError, match="'conv' in the reduce cell"):
        small(reduce=[("conv", 0), *CELL[1:]])
    with pytest.raises(ValueError, match=r"output of the normal cell .* 2 to 3"):
        small(normal_concat=[2, 4])


def test_is_immutable():
    genotype = small(provenance={"settings": {"layers": 8}})
    with pytest.raises(AttributeError):
        genotype.normal = ()
    genotype.provenance["settings"]["layers"] = 9
    genotype.to_dict()["provenance"]["settings"]["layers"] = 9
    assert genotype.provenance == {"settings": {"layers": 8}}


def test_provenance_is_copied_and_must_be_a_json_mapping():
    source = {"alphas": np.zeros((1, 2)), "settings": {"layers": 8}}
    genotype = small(provenance=source)
    source["settings"]["layers"] = 9
    assert genotype.to_dict()["provenance"] == {
        "alphas": [[0.0, 0.0]],
        "settings": {"layers": 8},
    }
    with pytest.raises(ValueError, match="Provenance is a mapping"):
        small(provenance=[1])
    with pytest.raises(ValueError, match="JSON cannot hold"):
        small(provenance={"loss": float("inf")})


def test_can_be_copied():
    genotype = small(provenance={"seed": 1, "settings": {"layers": 8}})
    for twin in (
        copy.copy(genotype),
        copy.deepcopy(genotype),
        pickle.loads(pickle.dumps(genotype)),
    ):
        assert twin == genotype
        assert hash(twin) == hash(genotype)
        assert twin.provenance == genotype.provenance


def test_operation_counts():
    assert small(reduce=[("max_pool_3x3", 0)] * 4).operation_counts() == {
        "normal": {"skip_connect": 2, "sep_conv_3x3": 1, "dil_conv_5x5": 1},
        "reduce": {"max_pool_3x3": 4},
    }


@pytest.mark.parametrize("name", NAMED)
def test_repr_shows_the_cells_two_edges_to_a_line(name):
    text = repr(NAMED[name])
    assert Genotype.from_text(text) == genotypes.get_genotype(text) == NAMED[name]
    assert len(text.splitlines()) == 2 * NAMED[name].num_nodes + 8


@pytest.mark.parametrize("name", NAMED)
def test_json_gives_the_same_genotype_back(name):
    text = NAMED[name].to_json()
    back = Genotype.from_json(text)
    assert back == NAMED[name]
    assert back.provenance == {"published": name}
    data = json.loads(text)
    assert list(data) == [
        "normal",
        "normal_concat",
        "reduce",
        "reduce_concat",
        "provenance",
    ]
    assert data["normal"][0] == list(NAMED[name].normal[0])


def damaged(**changes):
    return json.dumps({**small().to_dict(), **changes})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is damaged"),
        (small().to_json()[:-20], "is damaged"),
        ("[1]", "is a JSON object .* not a list"),
        ('{"normal": []}', "lacks normal_concat, reduce, reduce_concat"),
        (damaged(extra=1), "unknown entry extra"),
        (damaged(normal=None), "normal cell must be a list"),
        (damaged(normal=[["conv", 0], ["skip_connect", 1]]), "'conv'.*choose from"),
        (damaged(normal_concat=5), "must be a list"),
        (damaged(provenance=3), "Provenance is a mapping"),
    ],
)
def test_damaged_json_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        Genotype.from_json(text)


def test_save_and_load(tmp_path):
    path = tmp_path / "genotype.json"
    path.write_text("old")
    small(provenance={"seed": 3}).save(path)
    assert Genotype.load(path) == small()
    assert Genotype.load(str(path)).provenance == {"seed": 3}
    assert os.listdir(tmp_path) == ["genotype.json"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch, step):
    path = tmp_path / "genotype.json"
    small().save(path)

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, full_disk)
    with pytest.raises(OSError, match="No space left"):
        small(reduce_concat=[2]).save(path)
    assert Genotype.load(path) == small()
    assert os.listdir(tmp_path) == ["genotype.json"]


def test_load_names_the_damaged_file(tmp_path):
    path = tmp_path / "broken.json"
    path.write_bytes(b"\xff{")
    with pytest.raises(ValueError, match=r"broken\.json: "):
        Genotype.load(path)


def test_named_genotypes_are_the_seven():
    names = "ADVRUSH DARTS_V1 DARTS_V2 PDARTS RACL NASNet AmoebaNet"
    assert list(NAMED) == names.split()
    assert [NAMED[name].num_nodes for name in NAMED] == [4, 4, 4, 4, 4, 5, 5]


def test_get_genotype_takes_names_and_paths(tmp_path):
    assert genotypes.get_genotype("ADVRUSH") is NAMED["ADVRUSH"]
    path = tmp_path / "genotype.json"
    small().save(path)
    assert genotypes.get_genotype(path) == small()
    assert genotypes.get_genotype(str(path)) == small()


@pytest.mark.parametrize("wrong", ["advrush-2", "."])
def test_get_genotype_says_what_there_is(wrong):
    with pytest.raises(ValueError, match=r"ADVRUSH, .*AmoebaNet, or the path of a"):
        genotypes.get_genotype(wrong)


def test_random_genotypes_follow_their_seed():
    drawn = [genotypes.random_genotype(seed) for seed in range(20)]
    assert genotypes.random_genotype(7) == drawn[7]
    assert len(set(drawn)) == 20
    assert drawn[7].provenance["random_seed"] == 7


def test_random_genotypes_read_two_states_and_use_operations_equally():
    names = ("none", "skip_connect", "sep_conv_7x7", "conv_7x1_1x7")
    operations, states = Counter(), Counter()
    for seed in range(200):
        genotype = genotypes.random_genotype(seed, num_nodes=3, primitives=names)
        assert genotype.reduce_concat == (2, 3, 4)
        operations.update(op for op, _ in genotype.normal + genotype.reduce)
        for cell in (genotype.normal, genotype.reduce):
            assert all(cell[i][1] < cell[i + 1][1] for i in (0, 2, 4))
            states.update(state for _, state in cell[4:])
    assert set(operations) == set(names[1:])
    # 2400 draws of 3 operations: 800 each, give or take 5 standard deviations of 23.
    assert all(abs(count - 800) < 115 for count in operations.values())
    # The last node's 800 reads of 4 states: 200 each, give or take 5 times 10.
    assert all(abs(states[state] - 200) < 50 for state in range(4))


def test_random_genotype_refuses_what_makes_no_cell():
    with pytest.raises(ValueError, match="num_nodes=0"):
        genotypes.random_genotype(0, num_nodes=0)
    with pytest.raises(ValueError, match="'conv'; choose from"):
        genotypes.random_genotype(0, primitives=("conv",))
    with pytest.raises(ValueError, match="Seed"):
        genotypes.random_genotype(-1)
