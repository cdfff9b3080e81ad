"""How good a selection is at least: a lower bound on the energy of every selection that meets the budget.

Groups bring the bounds of their profiles, exact ones where they were enumerated. For a count the bounds are added up by the
same dynamic program as the profiles. For a cost, whose groups multiply, all allowed counts are tried where they are few; else
the Lagrangian dual in energy per capacity is maximised, with the capacity that each group frees alone: together groups free at
most the sum of that, where the cost adds up products of what is kept; other budgets have a relaxed one of that kind.

Couplings between groups are bounded unit by unit: see `Problem.below`. Valid, and weak where there are many.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qcompress.alignment import Alignment
from qcompress.budgets import Budget
from qcompress.problem import Problem
from qcompress.search_bounds import lower_bounds
from qcompress.search_exact import enumerate_small
from qcompress.search_profiles import Profile, greedy_profiles

__all__ = ["Certificate", "certify"]

Tables = list[NDArray[np.float64]]

COMBINATIONS = 2048
"""So many combinations of counts are tried for a cost."""

HALVINGS = 60
"""Of the interval that holds the best energy per capacity."""


@dataclass(frozen=True)
class Certificate:
    """What is proven about a selection.

    bound         no selection of allowed counts that meets the budget has a lower energy
    gap           energy less bound, >= 0
    relative_gap  gap over (mean energy of random selections of the same counts less bound): 0 says that nothing better exists,
                  1 that nothing is proven; None where random selections are no worse
    exact_groups  groups whose profile is exact, none where couplings join groups; groups  all of them
    """

    bound: float
    gap: float
    relative_gap: float | None
    exact_groups: int
    groups: int


def certify(
    problem: Problem, budget: Budget, alignment: Alignment, profiles: Sequence[Profile], x: NDArray[np.bool_]
) -> Certificate:
    """What is proven about x (n,), which meets the budget with allowed counts. Small groups are enumerated, whoever found x.

    `profiles` are those of the problem, or of its part without couplings between groups.
    """
    counts = problem.space.counts(x)
    if not problem.separable:
        profiles = greedy_profiles(problem.below(budget.target if budget.counts_units else problem.space.most))
    profiles = [replace(profile, energies=profile.energies.copy(), rows=profile.rows.copy()) for profile in profiles]
    enumerate_small(profiles)
    tables = [lower_bounds(profile, k) for profile, k in zip(profiles, counts.tolist(), strict=True)]
    tables = [table[list(offer)] for table, offer in zip(tables, alignment.allowed, strict=True)]
    energy = float(problem.energy(x))
    bound = min(_least(tables, budget, alignment), energy)  # above it by rounding only
    spread = _random_energy(problem, counts) - bound
    close = energy - bound <= 1e-9 * max(abs(energy), abs(bound), abs(spread))
    return Certificate(
        bound=energy if close else bound,
        gap=0.0 if close else energy - bound,
        relative_gap=0.0 if close else min(1.0, (energy - bound) / spread) if spread > 0 else None,
        exact_groups=sum(profile.exact for profile in profiles) if problem.separable else 0,
        groups=len(profiles),
    )


def _least(tables: Tables, budget: Budget, alignment: Alignment) -> float:
    """The least sum of one entry per group that meets the budget, or a bound on it."""
    if budget.counts_units:
        return _least_at(tables, alignment.allowed, budget.target)
    if math.prod(len(table) for table in tables) <= COMBINATIONS:
        rows = np.array(list(itertools.product(*alignment.allowed)), np.int64).reshape(-1, len(tables))
        sums = np.array([sum(entries) for entries in itertools.product(*tables)])
        return float(sums[budget.capacity(rows) >= budget.target].min())
    return _dual(tables, budget.relaxed, alignment.allowed)


def _least_at(tables: Tables, allowed: Sequence[Sequence[int]], target: int) -> float:
    best = np.full(target + 1, np.inf)
    best[0] = 0.0
    for table, offer in zip(tables, allowed, strict=True):
        before, best = best, np.full(target + 1, np.inf)
        for entry, k in zip(table.tolist(), offer, strict=True):
            if k <= target:
                np.minimum(best[k:], before[: target + 1 - k] + entry, out=best[k:])
    return float(best[target])


def _dual(tables: Tables, budget: Budget, allowed: Sequence[Sequence[int]]) -> float:
    """The largest over gamma >= 0 of gamma target + sum over groups of min over counts of (entry - gamma freed)."""
    entries = np.full((len(tables), max(map(len, tables))), np.inf)
    freed = np.zeros(entries.shape)
    for g, (table, offer) in enumerate(zip(tables, allowed, strict=True)):
        alone = np.zeros((len(offer), len(tables)), np.int64)
        alone[:, g] = offer
        entries[g, : len(offer)], freed[g, : len(offer)] = table, budget.capacity(alone)
    places = np.arange(len(tables))

    def at(gamma: float) -> tuple[float, float]:
        paid = entries - gamma * freed
        best = paid.argmin(1)
        return gamma * budget.target + float(paid[places, best].sum()), budget.target - float(freed[places, best].sum())

    low, high = 0.0, 1e-9
    value, slope = at(low)
    while slope > 0 and high < 1e12:
        value, slope = max(value, at(high)[0]), at(high)[1]
        low, high = (high, 2 * high) if slope > 0 else (low, high)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        found, slope = at(middle)
        value = max(value, found)
        low, high = (middle, high) if slope > 0 else (low, middle)
    return value


def _random_energy(problem: Problem, counts: NDArray[np.int64]) -> float:
    """Mean energy of the selections of these counts."""
    energy = 0.0
    for span, c, k in zip(problem.space.spans, problem.couplings, counts.tolist(), strict=True):
        size = len(c)
        pairs = k * (k - 1) / (size * (size - 1)) if size > 1 else 0.0
        energy += k / max(size, 1) * float(problem.linear[span].sum()) + pairs * float(c.sum()) / 2
    if problem.cross is not None:
        share = np.repeat(counts / np.maximum(problem.space.sizes, 1), problem.space.sizes)
        energy += float(share @ problem.cross @ share) / 2
    return energy
