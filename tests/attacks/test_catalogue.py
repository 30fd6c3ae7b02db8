import sys

import pytest

from advrush_tf import attacks
from advrush_tf.attacks import cleverhans
from advrush_tf.attacks.autoattack import make_members
from advrush_tf.attacks.catalogue import check_attack_name, is_stepped, named_attack
from advrush_tf.attacks.geometry import Norm
from advrush_tf.attacks.pgd import usual_step_size
from advrush_tf.errors import UserError


@pytest.mark.parametrize(
    ("name", "attack"),
    [
        ("fgsm", cleverhans.FGSM(Norm.LINF, 0.03)),
        ("pgd", cleverhans.PGD(Norm.LINF, 0.03)),
        ("pgd20", cleverhans.PGD(Norm.LINF, 0.03, steps=20)),
        ("pgd100x5", cleverhans.PGD(Norm.LINF, 0.03, steps=100, restarts=5)),
        ("bim7", cleverhans.BIM(Norm.LINF, 0.03, steps=7)),
        ("mim", cleverhans.MIM(Norm.LINF, 0.03)),
        ("spsa", cleverhans.SPSA(Norm.LINF, 0.03)),
    ],
)
def test_names_of_single_attacks(name, attack):
    assert named_attack(name, Norm.LINF, 0.03) == {name: attack}


@pytest.mark.parametrize("name", ["pgd20", "bim10", "mim10"])
def test_a_step_size_is_that_of_attacks_with_steps(name):
    assert is_stepped(name) and not is_stepped("apgd-ce")
    (attack,) = named_attack(name, Norm.LINF, 0.08, 0.003).values()
    assert attack.used_step_size == 0.003
    (attack,) = named_attack(name, Norm.LINF, 0.08).values()
    assert attack.used_step_size == usual_step_size(0.08, attack.steps)


def test_only_cleverhans_attacks_need_it(monkeypatch):
    for module in ("cleverhans", "cleverhans_compat"):
        monkeypatch.delattr(attacks, module)
        monkeypatch.delitem(sys.modules, f"advrush_tf.attacks.{module}")
    monkeypatch.setitem(sys.modules, "cleverhans.tf2.attacks", None)
    with pytest.raises(UserError, match=r"pip install 'advrush_tf\[cleverhans\]'"):
        named_attack("pgd20", Norm.LINF, 0.03)
    assert named_attack("autoattack", Norm.LINF, 0.03)


def test_names_of_series_and_members():
    for name, version in (("autoattack", "standard"), ("autoattack-plus", "plus")):
        assert named_attack(name, Norm.L2, 0.5) == make_members("L2", 0.5, version)
    square = make_members("Linf", 0.03, members=["square"])
    assert named_attack("square", Norm.LINF, 0.03) == square
    assert list(named_attack("cw", Norm.L2, 0.5)) == ["cw"]


@pytest.mark.parametrize(
    "name",
    ["", "pgd0", "pgd20x0", "pgd123456", "pgd9x1000", "bim10x2", "fgsm2", "PGD20"],
)
def test_unknown_names_name_the_known_ones(name):
    with pytest.raises(ValueError, match=r"there are fgsm, pgd20 .*, square"):
        check_attack_name(name)


@pytest.mark.parametrize(("name", "norm"), [("cw", Norm.LINF), ("spsa", Norm.L2)])
def test_a_norm_that_an_attack_has_not_is_refused(name, norm):
    with pytest.raises(ValueError, match="norm"):
        named_attack(name, norm, 0.03)
