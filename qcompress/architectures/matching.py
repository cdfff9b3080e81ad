"""Comparing the parameter names and shapes of a network with those of a file, without allocating any weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from pydantic import JsonValue, ValidationError
from torch import Tensor, nn

__all__ = ["Mismatch", "Shapes", "compare", "fits", "shapes_of"]

Shapes = Mapping[str, tuple[int, ...]]

_COUNTER = "num_batches_tracked"  # absent from files of PyTorch before 0.4.1; nothing in evaluation reads it


def shapes_of(state: nn.Module | Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor in a state dict (a module's own if a module is given)."""
    entries = state.state_dict() if isinstance(state, nn.Module) else state
    return {name: tuple(tensor.shape) for name, tensor in entries.items() if isinstance(tensor, Tensor)}


@dataclass(frozen=True)
class Mismatch:
    """Where a file differs from a network: names only here, names only there, and (name, expected shape, shape in file)."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshaped: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]

    def __bool__(self) -> bool:
        return self.count > 0

    @property
    def count(self) -> int:
        """Number of names that do not match."""
        return len(self.missing) + len(self.unexpected) + len(self.misshaped)

    def __str__(self) -> str:
        parts = (
            _some("missing", self.missing),
            _some("unexpected", self.unexpected),
            _some(
                "of another shape", tuple(f"{n} (file {list(got)}, network {list(want)})" for n, want, got in self.misshaped)
            ),
        )
        return "; ".join(part for part in parts if part)


def _some(what: str, names: tuple[str, ...], most: int = 3) -> str:
    if not names:
        return ""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{what}: {', '.join(names[:most])}{more}"


def compare(network: Shapes, file: Shapes) -> Mismatch:
    """What strict loading of `file` into `network` would stumble over; empty (false) when it would succeed."""
    return Mismatch(
        missing=tuple(name for name in network if name not in file and name.rpartition(".")[2] != _COUNTER),
        unexpected=tuple(name for name in file if name not in network),
        misshaped=tuple((n, shape, file[n]) for n, shape in network.items() if n in file and file[n] != shape),
    )


def fits(build: Callable[..., nn.Module], arguments: Mapping[str, JsonValue], shapes: Shapes) -> bool:
    """Whether `build(**arguments)` has exactly the parameters `shapes`; false too for arguments that it refuses."""
    try:
        with torch.device("meta"):
            module = build(**arguments)
    except (ValidationError, ValueError):
        return False
    return not compare(shapes_of(module), shapes)
