"""The attacks by the names that a user gives them."""

import re
from typing import Any

from advrush_tf.attacks.autoattack import Member, Version, make_members
from advrush_tf.attacks.base import Attack
from advrush_tf.attacks.geometry import Norm
from advrush_tf.errors import UserError

# CleverHans' attacks, by the names of their classes. Names that a number of steps may
# follow, and of pgd also a number of restarts.
_STEPPED = {"pgd": "PGD", "bim": "BIM", "mim": "MIM"}
_PLAIN = {"fgsm": "FGSM", "cw": "CarliniWagner", "spsa": "SPSA"}
_SERIES = {
    "autoattack": Version.STANDARD,
    "autoattack-plus": Version.PLUS,
    "autoattack-rand": Version.RAND,
}
_STEPS = re.compile(r"(pgd|bim|mim)(?:([1-9]\d{0,4})(?:x([1-9]\d{0,2}))?)?")

# Attacks that see the model's answers only, not its gradients.
BLACK_BOX = frozenset({Member.SQUARE.value, "spsa"})

ALLOWED = ", ".join(
    [
        "fgsm",
        "pgd20 (any number of steps; pgd20x5 with 5 restarts)",
        "bim10",
        "mim10",
        "cw",
        "spsa",
        *_SERIES,
        *(member.value for member in Member),
    ]
)


def check_attack_name(name: str) -> None:
    """Raises ValueError where there is no attack of that name."""
    match = _STEPS.fullmatch(name)
    stepped = match is not None and (match[3] is None or match[1] == "pgd")
    if not (stepped or name in _PLAIN or name in _SERIES or name in list(Member)):
        raise ValueError(f"there is no attack '{name}'; there are {ALLOWED}")


def is_stepped(name: str) -> bool:
    """True for an attack that takes steps of one size: pgd, bim or mim."""
    return _STEPS.fullmatch(name) is not None


def named_attack(
    name: str, norm: Norm, epsilon: float, step_size: float | None = None
) -> dict[str, Attack]:
    """The attack, or the series of attacks, of a name.

    Args:
        name: such as `fgsm`, `pgd20`, `pgd20x5` (5 restarts), `autoattack`, `square`.
        norm: of the ball.
        epsilon: its radius, in [0, 1] units.
        step_size: of pgd, bim and mim, in the same units; by default
            `pgd.usual_step_size`.

    Returns:
        The attacks by name, to run one after the other.

    Raises:
        ValueError: no such attack, or not in this norm.
        UserError: it is CleverHans', which is not installed.
    """
    check_attack_name(name)
    if name in _SERIES:
        return dict(make_members(norm, epsilon, _SERIES[name]))
    if name in list(Member):
        return dict(make_members(norm, epsilon, members=[name]))
    if name in _PLAIN:
        return {name: _cleverhans(_PLAIN[name], norm, epsilon)}
    match = _STEPS.fullmatch(name)
    assert match is not None
    numbers = {"steps": match[2], "restarts": match[3]}
    given = {key: int(value) for key, value in numbers.items() if value}
    kind = _STEPPED[match[1]]
    return {name: _cleverhans(kind, norm, epsilon, step_size=step_size, **given)}


def _cleverhans(kind: str, *args: Any, **settings: Any) -> Attack:
    """Makes one of CleverHans' attacks, the only ones that need that package."""
    try:
        from advrush_tf.attacks import cleverhans
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("cleverhans"):
            raise
        raise UserError(
            "it is CleverHans', which is not installed; run "
            "pip install 'advrush_tf[cleverhans]', or use AutoAttack or its members"
        ) from None
    return getattr(cleverhans, kind)(*args, **settings)
