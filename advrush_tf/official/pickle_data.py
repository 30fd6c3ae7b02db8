"""Reads a pickle as data: what it names is never imported and never called.

Only the instructions that `torch.save` writes (pickle protocol 2) are known. Where a
pickle would call something, a `Call` takes the place of the result.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO


# Values are compared by identity: a file decides how deep they are nested.
@dataclass(frozen=True, eq=False, slots=True)
class Named:
    """A class or function that a pickle names, such as "torch.FloatStorage"."""

    name: str


@dataclass(frozen=True, eq=False, slots=True)
class Call:
    """What a pickle would make by calling `function`; its state is dropped."""

    function: Any
    arguments: Any


@dataclass(frozen=True, eq=False, slots=True)
class Reference:
    """Something that is stored outside of the pickle, under the identifier `value`."""

    value: Any


@dataclass
class Pickle:
    """A pickle's content.

    Attributes:
        value: of None, bool, int, float, str, tuple, list, dict, `Named`, `Call` and
            `Reference`. Dictionaries, ordered ones too, keep the entries whose key is a
            str.
        references: all of them, in the order of the file.
    """

    value: Any = None
    references: list[Reference] = field(default_factory=list)


def read_pickle(file: BinaryIO) -> Pickle:
    """Reads one pickle; time and memory grow as its length.

    Args:
        file: held in memory, at the pickle's start; it is left behind the pickle's end.

    Raises:
        ValueError: it is damaged or holds an instruction that `torch.save` does not
            write.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name not in _ACTIONS:
                raise ValueError(
                    f"its pickle holds the instruction {opcode.name}, which torch.save "
                    "does not write"
                )
            _ACTIONS[opcode.name](machine, argument)
        return Pickle(machine.stack.pop(), machine.references)
    except (IndexError, KeyError):
        raise ValueError("the instructions of its pickle are damaged") from None


class _Machine:
    """A pickle's stack, the positions of marks in it, and its numbered values."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.references: list[Reference] = []

    def above_mark(self) -> list[Any]:
        """Takes the values above the last mark off the stack."""
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def last(self, number: int) -> list[Any]:
        """Takes the last values off the stack."""
        return [self.stack.pop() for _ in range(number)][::-1]


def _push(machine: _Machine, argument: Any) -> None:
    machine.stack.append(argument)


def _pushing(make: Callable[[], Any]) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.stack.append(make())


def _nothing(machine: _Machine, argument: Any) -> None:
    pass


def _mark(machine: _Machine, argument: None) -> None:
    machine.marks.append(len(machine.stack))


def _put(machine: _Machine, number: int) -> None:
    machine.memo[number] = machine.stack[-1]


def _get(machine: _Machine, number: int) -> None:
    machine.stack.append(machine.memo[number])


def _global(machine: _Machine, argument: str) -> None:
    machine.stack.append(Named(argument.replace(" ", ".")))


def _call(machine: _Machine, argument: None) -> None:
    function, arguments = machine.last(2)
    ordered = isinstance(function, Named) and function.name == "collections.OrderedDict"
    empty = isinstance(arguments, tuple) and not arguments
    machine.stack.append({} if ordered and empty else Call(function, arguments))


def _drop(machine: _Machine, argument: None) -> None:
    machine.stack.pop()


def _refer(machine: _Machine, argument: None) -> None:
    reference = Reference(machine.stack.pop())
    machine.references.append(reference)
    machine.stack.append(reference)


def _tuple(machine: _Machine, argument: None) -> None:
    machine.stack.append(tuple(machine.above_mark()))


def _tuple_of(number: int) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.stack.append(tuple(machine.last(number)))


def _extend(machine: _Machine, values: list[Any]) -> None:
    if isinstance(machine.stack[-1], list):
        machine.stack[-1].extend(values)


def _update(machine: _Machine, flat: list[Any]) -> None:
    """Sets entries given as key, value, key, value, ..., where the key is a str.

    Other keys are never wanted, and hashing a nested one can take for ever.
    """
    if isinstance(machine.stack[-1], dict):
        pairs = zip(flat[::2], flat[1::2], strict=True)
        machine.stack[-1].update((k, v) for k, v in pairs if isinstance(k, str))


_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _nothing,
    "STOP": _nothing,
    "NONE": _pushing(lambda: None),
    "NEWTRUE": _pushing(lambda: True),
    "NEWFALSE": _pushing(lambda: False),
    "BININT": _push,
    "BININT1": _push,
    "BININT2": _push,
    "LONG1": _push,
    "BINFLOAT": _push,
    "BINUNICODE": _push,
    # Strings of Python 2.
    "SHORT_BINSTRING": _push,
    "BINSTRING": _push,
    "EMPTY_TUPLE": _pushing(tuple),
    "EMPTY_LIST": _pushing(list),
    "EMPTY_DICT": _pushing(dict),
    "MARK": _mark,
    "TUPLE": _tuple,
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "APPEND": lambda machine, _: _extend(machine, machine.last(1)),
    "APPENDS": lambda machine, _: _extend(machine, machine.above_mark()),
    "SETITEM": lambda machine, _: _update(machine, machine.last(2)),
    "SETITEMS": lambda machine, _: _update(machine, machine.above_mark()),
    "BINPUT": _put,
    "LONG_BINPUT": _put,
    "BINGET": _get,
    "LONG_BINGET": _get,
    "GLOBAL": _global,
    "REDUCE": _call,
    "NEWOBJ": _call,
    "BUILD": _drop,
    "BINPERSID": _refer,
}
