"""Whether two measures put the same things in the same order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

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
    energies, values = np.array(pairs, np.float64).T
    if np.isnan(energies).any() or np.isnan(values).any():
        return None
    ranks = _ranks(energies), _ranks(-values)
    if any(rank.min() == rank.max() for rank in ranks):
        return None
    return round(float(np.corrcoef(*ranks)[0, 1]), 12)


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """From 1 up; equal values have the mean of theirs. By hand: scipy.stats takes a second to import."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return ranks
