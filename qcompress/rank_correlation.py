"""Whether two measures put the same things in the same order."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from scipy import stats

__all__ = ["of_losses"]

_LEAST = 3  # pairs: two are always in perfect order, or in the opposite


def of_losses(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Spearman's rank correlation of predicted and true loss, from (energy, value) pairs where values are better if higher.

    1 where the energy orders candidates as their values do, 0 where it says nothing, -1 where the order is the opposite. None
    for fewer than 3 pairs, or where all energies or all values are the same.

    >>> of_losses([(0.0, 30.0), (1.0, 29.0), (2.0, 25.0)])
    1.0
    """
    if len(pairs) < _LEAST:
        return None
    energies, values = np.array(pairs).T
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        found = float(stats.spearmanr(energies, -values).statistic)
    return round(found, 12) if np.isfinite(found) else None
