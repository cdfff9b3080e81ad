"""Bias correction: a layer that was rounded, and sees what was rounded, gives on average what the whole network gives there."""

from __future__ import annotations

import torch
from torch import Tensor

from qcompress.recover.ridge import NormalEquations

__all__ = ["with_best_bias"]


def with_best_bias(found: NormalEquations, weights: Tensor) -> Tensor:
    """(g, D + 1, outputs): `weights` (g, D, outputs) and, in the last row, the bias at which their mean error is none.

    `found` holds what the layer sees, and what it should give for it.
    """
    means, wanted = found.inputs()[:, -1:, :-1], found.targets()[:, -1:]
    return torch.cat((weights, wanted - means @ weights), 1)
