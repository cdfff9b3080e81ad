"""A walk over selections by swaps on the whole energy, for objectives that couple units of different groups.

A step restores one pruned unit and prunes a kept one, the best such swap whose units have not just moved: tabu search (Glover,
1989). Inside a group a swap keeps every capacity; between groups it is taken only where the budget stays met.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qcompress.alignment import Alignment
from qcompress.budgets import Budget
from qcompress.problem import Problem

__all__ = ["Walk", "settle", "tabu"]

CANDIDATES = 64
"""Units on either side of a swap: those of each group whose flip alone is best, two at least."""

TRIES = 8
"""So many of the best swaps between groups are checked against a cost before one inside a group is taken."""

TENURE = (4, 12)
"""For so many steps a unit that moved stays: a random number in between."""


class Walk:
    """A selection on its way: x (n,) True where pruned, fields (n,) as `Problem.fields`, counts (G,) pruned per group."""

    def __init__(self, problem: Problem, budget: Budget, alignment: Alignment) -> None:
        self.problem, self.budget, self.alignment = problem, budget, alignment
        self.couplings = problem.matrix()
        self.group_of = problem.space.group_of
        self.free = alignment.free
        self.tolerance = 1e-11 * float(np.abs(problem.linear).sum() + np.abs(self.couplings).sum())
        self._met: dict[bytes, bool] = {}
        self.go(np.zeros(len(problem.space), bool))

    def go(self, x: NDArray[np.bool_]) -> None:
        """To x."""
        self.x = x.copy()
        self.fields = self.problem.fields(x)
        self.counts = np.asarray(self.problem.space.counts(x), np.int64)

    @property
    def energy(self) -> float:
        """Of x."""
        return float((self.problem.linear + self.fields) @ self.x) / 2

    @property
    def room(self) -> NDArray[np.bool_]:
        """(G,) whether one more unit of a group may go."""
        return self.counts < self.alignment.most

    def flip(self, unit: int) -> None:
        """Prune the unit at this place, or restore it."""
        sign = -1 if self.x[unit] else 1
        self.x[unit] = sign > 0
        self.fields += sign * self.couplings[unit]
        self.counts[self.group_of[unit]] += sign

    def met(self, counts: NDArray[np.int64]) -> bool:
        """Whether pruning `counts` (G,) meets the budget: exactly, where it counts units."""
        if self.budget.counts_units:
            return int(counts.sum()) == self.budget.target
        key = counts.tobytes()
        if key not in self._met:
            self._met[key] = bool(self.budget.capacity(counts) >= self.budget.target)
        return self._met[key]

    def best_swap(self, barred: NDArray[np.bool_]) -> tuple[float, int, int] | None:
        """(energy change, unit restored, unit pruned) of the best swap of units that are not `barred`; None without any."""
        out, into = self._candidates(self.x & ~barred, -self.fields), self._candidates(~self.x & ~barred, self.fields)
        if not len(out) or not len(into):
            return None
        change = self.fields[into] - self.fields[out][:, None] - self.couplings[np.ix_(out, into)]
        a, b = self.group_of[out][:, None], self.group_of[into][None, :]
        across = np.broadcast_to(self.room[b] & self.free, change.shape) & (a != b)
        change = np.where((a == b) | across, change, np.inf)
        for _ in range(TRIES):
            i, j = divmod(int(change.argmin()), len(into))
            if self.budget.counts_units or not across[i, j] or self._stays_met(int(a[i, 0]), int(b[0, j])):
                break
            change[(a == a[i, 0]) & (b == b[0, j])] = np.inf
        else:
            change[across] = np.inf
            i, j = divmod(int(change.argmin()), len(into))
        return (float(change[i, j]), int(out[i]), int(into[j])) if np.isfinite(change[i, j]) else None

    def _stays_met(self, restored: int, pruned: int) -> bool:
        counts = self.counts.copy()
        counts[restored] -= 1
        counts[pruned] += 1
        return self.met(counts)

    def _candidates(self, among: NDArray[np.bool_], values: NDArray[np.float64]) -> NDArray[np.intp]:
        """Places of the smallest values of every group."""
        places = np.flatnonzero(among)
        groups = self.group_of[places]
        order = np.lexsort((values[places], groups))
        ranks = np.arange(len(order)) - np.searchsorted(groups[order], groups[order])
        each = max(2, CANDIDATES // max(len(self.counts), 1))
        chosen: NDArray[np.intp] = places[order[ranks < each]]
        return chosen


def settle(walk: Walk) -> None:
    """Best swaps as long as each lowers the energy."""
    nothing = np.zeros(len(walk.x), bool)
    while (swap := walk.best_swap(nothing)) is not None and swap[0] < -walk.tolerance:
        walk.flip(swap[1])
        walk.flip(swap[2])


def tabu(walk: Walk, steps: int, rng: np.random.Generator) -> None:
    """`steps` steps of tabu search; the walk ends at the best selection it came by, which its start is one of."""
    free_at = np.zeros(len(walk.x), np.int64)
    longest = max(1, min(len(walk.x) // 4, TENURE[1]))
    energy = best_energy = walk.energy
    best = walk.x.copy()
    for step in range(steps):
        swap = walk.best_swap(free_at > step)
        if swap is None:
            if not (free_at > step).any():
                break
            continue
        energy += swap[0]
        for unit in swap[1:]:
            walk.flip(unit)
            free_at[unit] = step + 1 + int(rng.integers(min(TENURE[0], longest), longest + 1))
        if energy < best_energy - walk.tolerance:
            best_energy, best = energy, walk.x.copy()
    walk.go(best)
