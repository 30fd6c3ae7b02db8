import pytest

from advrush_tf.genotypes.genotype import Genotype, get_genotype

PAIRS = [("sep_conv_3x3", 1), ("skip_connect", 0), ("none", 2), ("max_pool_3x3", 1)]
GENOTYPE = Genotype(PAIRS, [2, 3], PAIRS, [3])
LINE = (
    "11/28 04:02:13 PM genotype = Genotype("
    f"normal={PAIRS}, normal_concat=range(2, 4), reduce={PAIRS}, reduce_concat=[3])"
)
EARLIER = LINE.replace("none", "dil_conv_5x5")


@pytest.mark.parametrize(
    "text",
    [
        LINE,
        f"{EARLIER}\n11/28 05:00:00 PM epoch 1\n{LINE}\n05:00:01 lr 0.02 (5)\n",
        f"Genotype({PAIRS}, range(2, 4), {PAIRS}, reduce_concat=[3])",
        LINE.replace(str(PAIRS), str([PAIRS[:2], PAIRS[2:]])),
        repr(GENOTYPE),
        GENOTYPE.to_json(),
    ],
    ids=["line", "log", "positional", "nested", "repr", "json"],
)
@pytest.mark.parametrize("start", ["", "\ufeff"], ids=["plain", "bom"])
def test_genotypes_are_read_from_text(tmp_path, text, start):
    path = tmp_path / "log.txt"
    path.write_text(start + text, encoding="utf-8")
    assert get_genotype(path) == GENOTYPE
    if "Genotype(" in text:
        assert get_genotype(start + text) == GENOTYPE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LINE[:-20], "cut off"),
        (LINE.replace("range(2, 4)", "open('x', 'w')"), "more than names"),
        (LINE.replace("range(2, 4)", "range(10 ** 12)"), "more than names"),
        (LINE.replace("range(2, 4)", "range(2, 1000000000000)"), "from 2 to 3"),
        (LINE.replace("normal_concat", "**"), "more than names"),
        (LINE.replace("[3]", "[3], [4]"), "more than names"),
        (LINE.replace("'none'", "'conv'"), "'conv' in the normal cell; choose from"),
        (LINE.replace(", reduce_concat=[3]", ""), "has the arguments normal, normal_"),
        (LINE.replace("[3]", "[" * 10_000 + "]" * 10_000), "more than names"),
        ("epoch 1", "The genotype is damaged: Expecting value"),
    ],
)
def test_other_texts_are_refused(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        Genotype.from_text(text)
    assert not list(tmp_path.iterdir())
