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

__all__ = ["Ranges", "observe", "step_of"]

Ranges: TypeAlias = Mapping[str, tuple[float, float]]
"""(least, largest) value of a layer's input, by the layer's name."""

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


def step_of(low: float, high: float) -> tuple[float, int]:
    """Scale and zero point of the 256 levels over a range, widened to hold 0, which is one of the levels.

    >>> step_of(0.0, 2.55), step_of(-1.0, 1.55)
    ((0.01, 0), (0.01, 100))
    """
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / _LEVELS or 1.0
    return scale, round(-low / scale)
