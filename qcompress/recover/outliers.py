"""Calibration images that would decide everything."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["outlier_weights"]


def outlier_weights(energies: Tensor) -> Tensor:
    """(N,) in 0..1: 1 up to the median of `energies` (N,), >= 0, and inversely proportional to the energy above it.

    In trained networks a few images can excite some channels a thousand times more than all others do. Squared errors and means
    would then describe those images alone, and a repair that follows them makes every ordinary image worse.
    """
    middle = energies.median()
    return torch.where(energies > middle, middle / energies, 1.0) if middle > 0 else torch.ones_like(energies)
