"""What a pickle of weights would do, followed step by step on tokens: nothing in it is run, imported or allocated.

torch's weights-only loader runs no foreign code, but what it does run can be made to exhaust memory (a `bytearray` of any
size), time (a slow codec, the same large dictionary copied again and again) or the C stack (hashing a deep tuple crashes
Python). Here such a pickle is found before torch sees it.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO

__all__ = ["MaliciousPickleError", "refused", "scan"]

_MOST_STEPS = 5_000_000
_DEEPEST = 64  # tuples inside tuples
_SPARE = 2**16  # items that calls may copy in any case

_TENSORS = frozenset(
    {
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_tensor_v3",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_parameter_with_state",
        "torch._utils._rebuild_qtensor",
        "torch._utils._rebuild_sparse_tensor",
        "torch._utils._rebuild_meta_tensor_no_storage",
        "torch.nn.parameter.Parameter",
    }
)
_COPIES = frozenset(
    {"collections.OrderedDict", "collections.Counter", "builtins.set", "builtins.complex", "torch.Size", "torch.device"}
)
_LAYOUT = "torch.serialization._get_layout"
_SUBCLASS = "torch._tensor._rebuild_from_type_v2"
_ENCODE = "_codecs.encode"  # how protocol 2 writes bytes
_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}


class MaliciousPickleError(Exception):
    """The pickle asks for something that no file of weights needs; the text says what."""


class _NotWeightsError(MaliciousPickleError):
    """The pickle does something else than make tensors and plain containers; it may be a harmless one of something else."""

    def __init__(self, name: str) -> None:
        super().__init__(f"it uses {name}")
        self.name = name


def refused(error: BaseException) -> str | None:
    """The name of the function or the opcode that `scan` refused, if that is what `error` is about."""
    return error.name if isinstance(error, _NotWeightsError) else None


def scan(file: BinaryIO) -> None:
    """Follow one pickle from the file's position to its end.

    Raises:
        MaliciousPickleError: it would call what it should not, copy far more than it holds, or nest tuples without end.
        ValueError: it is damaged.

    """
    machine = _Machine()
    begin = file.tell()
    try:
        for step, (opcode, argument, place) in enumerate(pickletools.genops(file)):
            if step >= _MOST_STEPS:
                raise MaliciousPickleError(f"it has more than {_MOST_STEPS:,} steps")
            if opcode.proto > 2:
                raise _NotWeightsError(f"pickle protocol {opcode.proto} or later")
            machine.step(opcode.name, argument)
            machine.check_copies((place or 0) - begin)
    except (IndexError, KeyError, TypeError, OverflowError, UnicodeError) as error:
        raise ValueError(f"damaged pickle ({type(error).__name__})") from error


@dataclass(eq=False, slots=True)
class _Value:
    """What is known of a value.

    Its `size` in items or characters, how deep its tuples go, its dotted `name` if it is a global, its `items` if a
    tuple, its `text` if it is a short string.
    """

    size: int = 1
    depth: int = 0
    name: str | None = None
    items: tuple[_Value, ...] = ()
    text: str | None = None


@dataclass(eq=False)
class _Machine:
    """The stack, the marks and the memo of an unpickler that knows of its values only what `_Value` does."""

    stack: list[_Value] = field(default_factory=list)
    marks: list[list[_Value]] = field(default_factory=list)
    memo: dict[int, _Value] = field(default_factory=dict)
    number: _Value = field(default_factory=_Value)  # one stands for all: there may be millions of them
    copied: int = 0

    def step(self, name: str, argument: object) -> None:
        """Carry out one opcode."""
        if name in _NUMBERS:
            self.stack.append(self.number)
        elif name in _EMPTY:
            self.stack.append(_Value())
        elif name in ("BINUNICODE", "SHORT_BINSTRING", "GLOBAL"):
            self.stack.append(_text(str(argument), is_global=name == "GLOBAL"))
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[int(str(argument))] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[int(str(argument))])
        elif name in _ACTIONS:
            _ACTIONS[name](self)
        elif name not in ("PROTO", "STOP"):
            raise _NotWeightsError(f"opcode {name}")

    def check_copies(self, read: int) -> None:
        """Refuse calls that have copied much more than was read so far: that grows with the square of the file."""
        if self.copied > read + _SPARE:
            raise MaliciousPickleError("it copies the same data again and again")

    def mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def pop_mark(self) -> tuple[_Value, ...]:
        items = tuple(self.stack)
        self.stack = self.marks.pop()
        return items

    def push_tuple(self, items: tuple[_Value, ...]) -> None:
        depth = 1 + max((item.depth for item in items), default=0)
        if depth > _DEEPEST:
            raise MaliciousPickleError(f"it nests tuples more than {_DEEPEST} deep")
        self.stack.append(_Value(size=len(items) + 1, depth=depth, items=items))

    def tuple_of(self, count: int) -> None:
        items = tuple(self.stack[-count:])
        if len(items) < count:
            raise IndexError
        del self.stack[-count:]
        self.push_tuple(items)

    def fill(self, items: tuple[_Value, ...]) -> None:
        self.stack[-1].size += len(items)

    def append_one(self) -> None:
        self.fill((self.stack.pop(),))

    def set_one(self) -> None:
        self.fill((self.stack.pop(), self.stack.pop()))

    def persistent(self) -> None:
        self.stack[-1] = _Value()

    def build(self) -> None:
        self.copied += _copied((self.stack.pop(),))

    def call(self) -> None:
        arguments = self.stack.pop().items
        function = self.stack.pop()
        _check_call(function, arguments)
        self.copied += _copied(arguments)
        self.stack.append(_Value(size=1 + _copied(arguments)))


def _check_call(function: _Value, arguments: tuple[_Value, ...]) -> None:
    name = function.name or "something that is not a global"
    if name == _SUBCLASS and arguments and arguments[0].name in _TENSORS:
        return
    if name == _ENCODE and len(arguments) == 2 and arguments[1].text in ("latin1", "latin-1"):
        return
    if name not in _TENSORS and name not in _COPIES and name != _LAYOUT:
        raise _NotWeightsError(name)


def _copied(values: tuple[_Value, ...]) -> int:
    """Items that a call on `values` may copy: theirs, and those of the values in their tuples."""
    return sum(value.size + sum(item.size for item in value.items) for value in values)


def _text(text: str, *, is_global: bool) -> _Value:
    if not is_global:
        return _Value(size=len(text), text=text if len(text) <= 16 else None)
    module, _, name = text.partition(" ")
    return _Value(name=f"{_PYTHON_2.get(module, module)}.{name}")


_NUMBERS = frozenset({"NONE", "NEWFALSE", "NEWTRUE", "BININT", "BININT1", "BININT2", "BINFLOAT", "LONG1"})
_EMPTY = frozenset({"EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"})
_ACTIONS: dict[str, Callable[[_Machine], None]] = {
    "MARK": _Machine.mark,
    "TUPLE": lambda machine: machine.push_tuple(machine.pop_mark()),
    "TUPLE1": lambda machine: machine.tuple_of(1),
    "TUPLE2": lambda machine: machine.tuple_of(2),
    "TUPLE3": lambda machine: machine.tuple_of(3),
    "APPEND": _Machine.append_one,
    "APPENDS": lambda machine: machine.fill(machine.pop_mark()),
    "SETITEM": _Machine.set_one,
    "SETITEMS": lambda machine: machine.fill(machine.pop_mark()),
    "BINPERSID": _Machine.persistent,
    "BUILD": _Machine.build,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
}
