"""How many units go in which group: counts per group from the groups' profiles, at a capacity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from qcompress.budgets import Budget
from qcompress.search_profiles import Profile

__all__ = ["allocate_count", "allocate_cost", "greedy_counts"]

Counts = NDArray[np.int64]

STEPS = 256
"""Greedy allocation recomputes marginal capacities about so often on its way, and at every unit near the target."""

ROUNDS = 500
"""At most so many moves improve an allocation; each lowers the energy, and a few dozen are usual."""

TINY = 1e-9
"""In place of a marginal capacity of 0."""

TRIES = 100
"""At most so many promising moves are checked for their exact capacity before an allocation counts as settled."""


def greedy_counts(profiles: Sequence[Profile], budget: Budget) -> Counts:
    """(G,) counts that reach the target: units go where the next one costs the least energy per capacity freed."""
    counts = np.zeros(len(profiles), np.int64)
    stride = max(1, sum(profile.most for profile in profiles) // STEPS)
    while (missing := budget.target - int(budget.capacity(counts))) > 0:
        freed = budget.marginals(counts)
        far = missing > stride * freed.max()
        next_costs = np.array([_next_cost(profile, int(k)) for profile, k in zip(profiles, counts, strict=True)])
        for _ in range(stride if far else 1):
            group = int((next_costs / np.maximum(freed, TINY)).argmin())
            if not np.isfinite(next_costs[group]):
                break
            counts[group] += 1
            next_costs[group] = _next_cost(profiles[group], int(counts[group]))
    return counts


def allocate_count(profiles: Sequence[Profile], target: int, allowed: Sequence[Sequence[int]]) -> Counts:
    """(G,) counts of sum `target` and least energy: exact for the given profiles, a multiple-choice knapsack.

    best[t] is the least energy of the groups so far with t units pruned; each group offers the counts `allowed` to it, and
    some of these have that sum.
    """
    best = np.full(target + 1, np.inf)
    best[0] = 0.0
    choices = np.zeros((len(profiles), target + 1), np.int32)
    for choice, profile, offer in zip(choices, profiles, allowed, strict=True):
        before, best = best, np.full(target + 1, np.inf)
        for k in (k for k in offer if k <= target):
            total = before[: target + 1 - k] + float(profile.energies[k])
            better = total < best[k:]
            best[k:][better] = total[better]
            choice[k:][better] = k
    counts = np.zeros(len(profiles), np.int64)
    for group in reversed(range(len(profiles))):
        counts[group] = choices[group, target]
        target -= int(counts[group])
    return counts


def allocate_cost(profiles: Sequence[Profile], budget: Budget, start: Counts) -> Counts:
    """(G,) counts whose capacity is at least the target: `start`, which reaches it, improved by moves and trimmed.

    A move takes units back in one group and, where that leaves too little, prunes as many as needed in another.
    """
    counts = start.copy()
    for _ in range(ROUNDS):
        better = next(_improvements(profiles, budget, counts), None)
        if better is None:
            break
        counts = better
    return _trim(profiles, budget, counts)


def _improvements(profiles: Sequence[Profile], budget: Budget, counts: Counts) -> Iterator[Counts]:
    """Counts of lower energy that reach the target, the greatest gain first. Marginal capacities propose, exact ones decide."""
    tolerance = 1e-10 * sum(float(np.abs(profile.energies).max()) for profile in profiles)
    moves = [move for move in _moves(profiles, budget, counts) if move[0] < -tolerance]
    for _, back, number, into, more in sorted(moves)[:TRIES]:
        proposal = counts.copy()
        proposal[back] -= number
        proposal[into] += more
        if budget.capacity(proposal) >= budget.target:
            yield proposal


def _moves(profiles: Sequence[Profile], budget: Budget, counts: Counts) -> Iterator[tuple[float, int, int, int, int]]:
    """(energy change, group to restore in, number, group to prune in, number), by marginal capacities."""
    slack = int(budget.capacity(counts)) - budget.target
    gains = np.maximum(budget.marginals(counts), TINY)
    losses = _losses(budget, counts)
    for back, profile in enumerate(profiles):
        k = int(counts[back])
        for number in (n for n in (1, 2, 4, 8) if n <= k):
            saved = float(profile.energies[k - number] - profile.energies[k])
            needed = number * losses[back] - slack
            if needed <= 0:
                yield saved, back, number, back, 0
            for into, other in enumerate(profiles):
                have = int(counts[into])
                least = max(1, int(np.ceil(needed / gains[into])))
                for more in range(least, min(least + 2, other.most - have + 1)):
                    if into != back:
                        yield saved + float(other.energies[have + more] - other.energies[have]), back, number, into, more


def _losses(budget: Budget, counts: Counts) -> NDArray[np.float64]:
    """(G,) capacity that restoring one unit of each group gives up; 0 where none is pruned."""
    fewer = np.maximum(counts - np.eye(len(counts), dtype=np.int64), 0)
    losses: NDArray[np.float64] = (budget.capacity(counts) - budget.capacity(fewer)).astype(np.float64)
    return losses


def _trim(profiles: Sequence[Profile], budget: Budget, counts: Counts) -> Counts:
    """Counts less every unit that the target can do without, the best energy change first."""
    counts = counts.copy()
    while True:
        slack = int(budget.capacity(counts)) - budget.target
        losses = _losses(budget, counts)
        changes = [
            float(profile.energies[k - 1] - profile.energies[k]) if 0 < loss <= slack else np.inf
            for profile, k, loss in zip(profiles, counts.tolist(), losses.tolist(), strict=True)
        ]
        if not np.isfinite(min(changes, default=np.inf)):
            return counts
        counts[int(np.argmin(changes))] -= 1


def _next_cost(profile: Profile, k: int) -> float:
    """Energy of one unit more than k; inf at the floor."""
    return float(profile.energies[k + 1] - profile.energies[k]) if k < profile.most else np.inf
