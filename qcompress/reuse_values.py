"""What a pass with reuse computes with: values that may not be computed yet, and the store of those that are."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

__all__ = ["HOLE", "Box", "Call", "Form", "Label", "Store", "Value", "emptied", "filled", "listed"]

Label: TypeAlias = Hashable
"""Says how a tensor came about; equal labels mean equal values, to the last bit."""


class Form(NamedTuple):
    """What is known of a tensor without its values."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, tensor: Tensor) -> Form:
        """The form of `tensor`."""
        return cls(tensor.shape, tensor.stride(), tensor.dtype, tensor.device)


@dataclass(eq=False, slots=True)
class Box:
    """A tensor that is never written into, unless it is `private`: then no view and no second value has its memory."""

    tensor: Tensor
    private: bool


@dataclass(eq=False, slots=True)
class Value:
    """The value of one tensor of a pass: `box` once it is computed, before that the `call` that computes it.

    `waiting` counts the calls that may still want it.
    """

    label: Label
    form: Form
    box: Box | None = None
    call: Call | None = None
    waiting: int = 0


@dataclass(eq=False, slots=True)
class Call:
    """An operation, done or put off: `args` and `kwargs` hold values in the place of the pass's tensors.

    `needs` are these values, `constants` the other tensors among the arguments. `written` is the place of the argument that the
    operation writes into, if there is one: what it gives is that argument. `view`: what it gives has the memory of an argument.
    """

    func: Callable[..., Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    needs: Sequence[Value]
    constants: Sequence[Tensor]
    written: int | None
    view: bool
    put_off: bool = False
    gives: tuple[Value, ...] = ()


class Store:
    """Tensors by label, of at most `limit` bytes together; the one that was of no use for longest goes first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._boxes: OrderedDict[Label, Box] = OrderedDict()
        self.bytes = 0  # what the tensors take together

    def find(self, label: Label) -> Box | None:
        """The tensor with this label, if it is still there."""
        return self._boxes.get(label)

    def put(self, label: Label, box: Box) -> None:
        """Keep `box`, unless it is larger than all there may be."""
        self.drop(label)
        if _size(box) > self._limit:
            return
        self._boxes[label] = box
        self.bytes += _size(box)
        while self.bytes > self._limit:
            self.drop(next(iter(self._boxes)))

    def used(self, label: Label) -> None:
        """The tensor with this label, if it is there, was of use."""
        if label in self._boxes:
            self._boxes.move_to_end(label)

    def drop(self, label: Label) -> None:
        """Forget the tensor with this label."""
        box = self._boxes.pop(label, None)
        if box is not None:
            self.bytes -= _size(box)


def _size(box: Box) -> int:
    return box.tensor.untyped_storage().nbytes()


HOLE = object()
"""Where a tensor was."""


def listed(result: Any) -> Sequence[Any]:
    """What an operation returned, if it is several things."""
    return result if isinstance(result, list | tuple) else ()


def emptied(result: Any) -> Any:
    """`result` with holes for its tensors."""
    if isinstance(result, Tensor):
        return HOLE
    return type(result)(map(emptied, result)) if isinstance(result, list | tuple) else result


def filled(result: Any, tensors: Iterator[Tensor]) -> Any:
    """The inverse of `emptied`."""
    if result is HOLE:
        return next(tensors)
    return type(result)(filled(item, tensors) for item in result) if isinstance(result, list | tuple) else result
