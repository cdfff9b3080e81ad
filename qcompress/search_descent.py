"""Descent by swaps at fixed capacity: one pruned unit is restored, one kept unit pruned, as long as the energy falls."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qcompress.problem import Problem

__all__ = ["descend"]


class _Swap(NamedTuple):
    change: float
    restored: int  # places in the space
    pruned: int


_NONE = _Swap(np.inf, -1, -1)


def descend(problem: Problem, x: NDArray[np.bool_], *, across: bool) -> NDArray[np.bool_]:
    """A local minimum by best swaps from x (n,), which keeps its floors: inside groups, and with `across` between them.

    Inside groups the counts stay, and with them every capacity; between groups only their sum does.
    """
    x = x.copy()
    fields = problem.fields(x)
    space = problem.space
    tolerance = 1e-11 * (np.abs(problem.linear).sum() + sum(np.abs(c).sum() for c in problem.couplings))
    most = np.subtract(space.sizes, space.floors)
    inside = [_best_inside(problem, x, fields, g) for g in range(len(space.groups))]
    while True:
        swaps = [min(inside, key=lambda swap: swap.change, default=_NONE)]
        if across:
            swaps.append(_best_across(problem, x, fields, space.counts(x) < most))
        swap = min(swaps, key=lambda swap: swap.change)
        if not swap.change < -tolerance:
            return x
        for unit, sign in ((swap.restored, -1.0), (swap.pruned, 1.0)):
            x[unit] = sign > 0
            group = int(space.group_of[unit])
            span = space.spans[group]
            fields[span] += sign * problem.couplings[group][unit - span.start]
        for group in {int(space.group_of[swap.restored]), int(space.group_of[swap.pruned])}:
            inside[group] = _best_inside(problem, x, fields, group)


def _best_inside(problem: Problem, x: NDArray[np.bool_], fields: NDArray[np.float64], group: int) -> _Swap:
    span = problem.space.spans[group]
    pruned, kept = np.flatnonzero(x[span]), np.flatnonzero(~x[span])
    if not len(pruned) or not len(kept):
        return _NONE
    field = fields[span]
    change = field[kept] - field[pruned][:, None] - problem.couplings[group][np.ix_(pruned, kept)]
    i, j = divmod(int(change.argmin()), len(kept))
    return _Swap(float(change[i, j]), span.start + int(pruned[i]), span.start + int(kept[j]))


def _best_across(problem: Problem, x: NDArray[np.bool_], fields: NDArray[np.float64], room: NDArray[np.bool_]) -> _Swap:
    """Best swap between two groups, the one that loses a unit having `room` (G,) for it: among the best two on either side."""
    group_of = problem.space.group_of
    restore = _best_two(np.where(x, -fields, np.inf), group_of)
    prune = _best_two(np.where(x | ~room[group_of], np.inf, fields), group_of)
    swaps = [_Swap(float(fields[j] - fields[i]), i, j) for i in restore for j in prune if group_of[i] != group_of[j]]
    return min(swaps, key=lambda swap: swap.change, default=_NONE)


def _best_two(values: NDArray[np.float64], group_of: NDArray[np.intp]) -> list[int]:
    """Places of the smallest finite value, and of the smallest in any other group."""
    best = []
    for _ in range(2):
        if not len(values) or not np.isfinite(values.min()):
            break
        place = int(values.argmin())
        best.append(place)
        values = np.where(group_of == group_of[place], np.inf, values)
    return best
