"""Tabu search by swaps at fixed counts, on many rows of many groups at once.

A step restores the pruned unit, then prunes the kept unit, that cost the least; both then rest for some steps (Glover, 1989).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["swap_tabu"]

Floats = NDArray[np.float32]
Rows = NDArray[np.bool_]

REST = 16
"""A unit rests for at most so many steps, and for at most a quarter of the units on its side."""


def swap_tabu(
    linear: Floats, couplings: Floats, group: NDArray[np.intp], rows: Rows, steps: int, rng: np.random.Generator
) -> Rows:
    """(R, m) the best that `steps` steps met from each of `rows` (R, m); row r is of group[r] and keeps its count.

    linear (G, m), couplings (G, m, m); every row has 1 to m - 1 units pruned. Single precision: the caller computes energies.
    """
    rows = rows.copy()
    fields = linear[group] + np.einsum("ri,rij->rj", rows.astype(np.float32), couplings[group], optimize=True)
    counts = rows.sum(1)
    longest = np.minimum(REST, np.minimum(counts, rows.shape[1] - counts) // 4)
    rests = rng.integers(longest // 2, longest + 1, (steps, 2, len(rows)))
    until = np.zeros(rows.shape, np.int32)
    energy, lowest, best = np.zeros(len(rows), np.float64), np.zeros(len(rows), np.float64), rows.copy()
    places = np.arange(len(rows))
    for step in range(steps):
        free = until <= step
        out = np.where(rows & free, fields, -np.inf).argmax(1)
        energy -= fields[places, out]
        fields -= couplings[group, out]
        rows[places, out] = False
        free[places, out] = False
        into = np.where(free & ~rows, fields, np.inf).argmin(1)
        energy += fields[places, into]
        fields += couplings[group, into]
        rows[places, into] = True
        until[places, out] = step + 1 + rests[step, 0]
        until[places, into] = step + 1 + rests[step, 1]
        better = np.flatnonzero(energy < lowest)
        lowest[better], best[better] = energy[better], rows[better]
    return best
