"""Building a network that a file describes, without taking more memory and time than it may."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from qcompress.errors import ArchitectureError

__all__ = ["bounded"]

_MOST_PER_NUMBER = 16  # a slim network has a few percent of the dense one's, buffers and what is made on the way count
_SPARE_NUMBERS = 2**25  # that any network may make: 128 MiB of float32
_MOST_OPERATIONS = 100_000  # the largest networks take some 20,000


class _TooLargeError(Exception):
    """Ends the building from inside; never leaves `bounded`."""


class _Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the numbers that are asked for, and refuses before torch makes room for them."""

    def __init__(self, most_numbers: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.left = most_numbers
        self.operations = _MOST_OPERATIONS
        self.exceeded = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None) -> Any:
        del types
        self.operations -= 1
        self.left -= _made(func, args, kwargs or {})
        if self.exceeded or self.left < 0 or self.operations < 0:
            self.exceeded = True  # whoever catches the first refusal runs into the next
            raise _TooLargeError
        return func(*args, **(kwargs or {}))


def _made(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> int:
    """Numbers in what `func` makes: by its size, where it makes something of a size, or as many as it copies."""
    if func.overloadpacket in (torch.ops.aten.clone, torch.ops.aten._to_copy):
        return int(args[0].numel())
    if func.overloadpacket in (torch.ops.aten.arange, torch.ops.aten.linspace):
        return max((math.ceil(abs(value)) for value in args[:3] if isinstance(value, int | float)), default=0)
    named = [argument.name for argument in func._schema.arguments]
    size = args[named.index("size")] if "size" in named[: len(args)] else kwargs.get("size", ())
    return math.prod(size) if _makes(func) and isinstance(size, list | tuple) else 0


def _makes(func: Any) -> bool:
    """Whether it makes a tensor from nothing but a size: views of a size (expand, view) take no memory."""
    return not any(str(argument.type) == "Tensor" and argument.alias_info is not None for argument in func._schema.arguments)


@contextmanager
def bounded(name: str, held: int) -> Iterator[None]:
    """Refuse, inside the block, to build a network of more than 16 numbers for each of the `held` in the file (and 2**25).

    Everything that is made on the way counts, whether it stays or not. `name` stands for the network in the error.

    Raises:
        ArchitectureError: it takes more, or more than 100,000 operations; also where the code in the block has made an error of
            its own of that.

    """
    most = _MOST_PER_NUMBER * held + _SPARE_NUMBERS
    meter = _Meter(most)
    failed: Exception | None = None
    try:
        with meter:
            yield
    except Exception as error:
        if not meter.exceeded:
            raise
        failed = error
    if meter.exceeded:
        message = f"{name}: a file of {held:,} numbers describes a network of more than {most:,}, or one that is too deep"
        raise ArchitectureError(message, "get it from another source") from failed
