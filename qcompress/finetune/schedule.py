"""The learning rate over a training: a short warm-up, then half a cosine down to nothing (Loshchilov and Hutter, ICLR 2017)."""

from __future__ import annotations

import math

__all__ = ["WARM_UP", "factor"]

WARM_UP = 0.05
"""Share of a training in which the rate rises: the optimiser's moments mean little before."""


def factor(share: float) -> float:
    """What the highest rate is multiplied by once `share` (0..1) of the training is over.

    >>> [round(factor(share), 3) for share in (0.0, 0.025, 0.05, 0.525, 1.0)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    if share < WARM_UP:
        return share / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (share - WARM_UP) / (1 - WARM_UP)))
