"""What layers see, as the least and the largest value: the range of 8 bits on it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn

from qcompress.data.images import Crops
from qcompress.errors import InputError
from qcompress.frozen import answer, frozen
from qcompress.quantise.layers import before

__all__ = ["SHARES", "Ranges", "least_error", "observe", "step_of"]

Ranges: TypeAlias = Mapping[str, tuple[float, float]]
"""(least, largest) value of a layer's input, by the layer's name."""

SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
"""Of a range, that are tried."""

_LEVELS = 255


def observe(model: nn.Module, layers: Iterable[str], crops: Crops, batch: int = 8) -> dict[str, tuple[float, float]]:
    """The ranges of the inputs of `layers` on all `crops`; layers that are not called are left out.

    Raises InputError where a layer sees what is not finite.
    """
    found: dict[str, tuple[float, float]] = {}

    def see(name: str, x: Tensor) -> None:
        low, high = (float(value) for value in x.aminmax())
        if not (math.isfinite(low) and math.isfinite(high)):
            message = f"layer {name}: what it sees of the calibration images is not finite"
            raise InputError(message, "look for images that the network cannot work on")
        lower, higher = found.get(name, (low, high))
        found[name] = min(low, lower), max(high, higher)

    with frozen(model), torch.no_grad(), before(model, layers, see):
        for start in range(0, len(crops), batch):
            answer(model, crops.inputs[start : start + batch])
    return found


def least_error(model: nn.Module, ranges: Ranges, crops: Crops, batch: int = 8) -> dict[str, tuple[float, float]]:
    """`ranges`, each shrunk so that what the layer sees of `crops` is rounded with the least squared error.

    The few values beyond are cut off, and all others lie on finer levels. One end or both ends are brought to shares of
    themselves, down to `SHARES[-1]`.
    """
    tried = {name: _shrunk(*found) for name, found in ranges.items()}
    errors = {name: [0.0] * len(found) for name, found in tried.items()}

    def see(name: str, x: Tensor) -> None:
        for place, ends in enumerate(tried[name]):
            rounded = torch.fake_quantize_per_tensor_affine(x, *step_of(*ends), 0, _LEVELS)
            errors[name][place] += float((rounded - x).square().sum(dtype=torch.float64))

    with frozen(model), torch.no_grad(), before(model, ranges, see):
        for start in range(0, len(crops), batch):
            answer(model, crops.inputs[start : start + batch])
    return {name: tried[name][found.index(min(found))] for name, found in errors.items()}


def _shrunk(low: float, high: float) -> list[tuple[float, float]]:
    """The range itself, and smaller ones."""
    both = [(share * low, share * high) for share in SHARES]
    if low >= 0 or high <= 0:
        return both
    return [*both, *((low, share * high) for share in SHARES[1:]), *((share * low, high) for share in SHARES[1:])]


def step_of(low: float, high: float) -> tuple[float, int]:
    """Scale and zero point of the 256 levels over a range, widened to hold 0, which is one of the levels.

    >>> step_of(0.0, 510.0), step_of(-128.0, 127.0)
    ((2.0, 0), (1.0, 128))
    """
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / _LEVELS or 1.0
    return scale, round(-low / scale)
