"""Genotypes as Python writes them: the `Genotype(...)` of logs and of a repr."""

import ast
from typing import Any

_CALL = "Genotype("
_FIELDS = ("normal", "normal_concat", "reduce", "reduce_concat")
# No cell has so many states: a longer range is refused by its first ones.
_MOST_STATES = 1000


def has_call(text: str) -> bool:
    """Returns True if a text that is not JSON holds a `Genotype(...)`."""
    return _CALL in text and not text.lstrip().startswith("{")


def last_call(text: str) -> dict[str, Any]:
    """Reads the last `Genotype(...)` of a text; nothing in it is evaluated.

    Args:
        text: A log of the official PyTorch search, which has one a epoch, or a repr;
            arguments by name or in the order of the named tuple, `range(2, 6)` too.

    Returns:
        The arguments by name.

    Raises:
        ValueError: If it is damaged or holds anything but literals.
    """
    source = _closed(text[text.rindex(_CALL) :])
    try:
        call = ast.parse(source, mode="eval").body
        assert isinstance(call, ast.Call)
        given = [*zip(_FIELDS, call.args, strict=False)]
        given += [(str(word.arg), word.value) for word in call.keywords]
        fields = {name: _literal(node) for name, node in given}
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        raise ValueError(
            f"The {_CALL}...) holds more than names of operations and numbers."
        ) from None
    if sorted(name for name, _ in given) != sorted(_FIELDS):
        raise ValueError(f"A {_CALL}...) has the arguments {', '.join(_FIELDS)}.")
    return fields


def _closed(text: str) -> str:
    """Returns the text up to the parenthesis that closes its first one."""
    depth = 0
    for position, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if character == ")" and not depth:
            return text[: position + 1]
    raise ValueError(f"The last {_CALL}...) is cut off: its parenthesis never closes.")


def _literal(node: ast.expr) -> Any:
    match node:
        case ast.Call(func=ast.Name(id="range"), args=args, keywords=[]):
            return range(*map(ast.literal_eval, args))[:_MOST_STATES]
    return ast.literal_eval(node)
