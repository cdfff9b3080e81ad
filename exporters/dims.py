"""Which sizes of a network's input may vary in a graph that torch.export writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from qcompress.errors import ExportError
from qcompress.exporters.base import first_line
from qcompress.exporters.checked import content
from qcompress.exporters.quiet import silent
from qcompress.exporters.runtime import find_stride

__all__ = ["Axes", "captured", "first_that_works", "sizes_note", "stride_of"]

Axes = tuple[int, ...]  # of an input (N, C, H, W) that vary: some of 0, 2, 3
Result = TypeVar("Result")
_NAMES = {0: "batch", 2: "height", 3: "width"}


def stride_of(network: nn.Module, example: Tensor) -> int | None:
    """What height and width must be multiples of for torch to run the network; None where no other size runs."""

    def accepts(height: int, width: int) -> bool:
        try:
            with torch.inference_mode():
                network(content((1, example.shape[1], height, width)))
        except Exception:  # a network may refuse a size with any exception
            return False
        return True

    return find_stride(accepts, example.shape[2], example.shape[3]) if example.ndim == 4 else None


def captured(network: nn.Module, example: Tensor, axes: Axes, stride: int, *, largest: int | None = None) -> ExportedProgram:
    """The network as torch.export knows it, with `axes` free: sides are multiples of `stride`, `largest` pixels at most."""
    batch = torch.cat([example, example]) if 0 in axes and len(example) == 1 else example  # 1 is taken for a constant
    if largest is None:
        free: dict[int, Any] = dict.fromkeys(axes, Dim.DYNAMIC)
    else:  # derived from a named size, or the upper bound would not be known for what lies between
        free = {axis: Dim(_NAMES[axis], max=largest // stride) * stride for axis in axes}
    return torch.export.export(network, (batch,), dynamic_shapes=(free,) if axes else None)


def first_that_works(
    tries: Iterator[Axes], convert: Callable[[Axes], Result], what: str, loggers: tuple[str, ...] = ()
) -> tuple[Axes, Result, str]:
    """The first of `tries` that `convert` does not fail at, what it returned, and why the one before failed ("" if none did).

    Raises ExportError with the reason of the last.
    """
    reason = ""
    for axes in tries:
        try:
            with silent(("torch.export", "torch.fx", *loggers)):
                return axes, convert(axes), reason
        except Exception as error:  # converters raise whatever went wrong inside
            reason = first_line(error)
    raise ExportError(f"{what} cannot convert this network: {reason}")


def sizes_note(axes: Axes, stride: int | None, example: Tensor, wanted: bool, reason: str) -> tuple[str, ...]:
    """Which sizes the file accepts, where that is less than any, and why."""
    if 2 in axes and stride is not None and stride > 1:
        return (f"height and width must be multiples of {stride}",)
    if not wanted or 2 in axes:
        return ()
    size = "x".join(map(str, example.shape[2:]))
    return (f"the input is {size}{'' if axes else f', batch {len(example)}'} only: {reason or 'no other size runs'}",)
