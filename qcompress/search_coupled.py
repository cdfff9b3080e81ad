"""The search for objectives that couple units of different groups, where profiles are not all: on the whole energy.

From greedy pruning, from the best selection of the separable part and from whatever a backend found, each brought to the budget
by the smallest energy changes, a tabu search by swaps goes on at the same capacity; moves of whole allowed counts between
groups follow where single units may not move.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from qcompress import seeds
from qcompress.alignment import Alignment
from qcompress.budgets import Budget
from qcompress.problem import Problem
from qcompress.search_allocation import allocate_count
from qcompress.search_profiles import Profile
from qcompress.search_swaps import Walk, settle, tabu

__all__ = ["baseline_coupled", "search_coupled"]

Row = NDArray[np.bool_]
Counts = NDArray[np.int64]

STEPS, PER_UNIT = 1000, 8
"""Of a tabu search; at most so many for each unit."""

STARTS = 4
"""So many of the best starts are searched from."""

RECOUNTS = 40
"""At most so many moves of counts follow a search."""

FEASIBLE, FAR = 24, 2
"""So many promising moves of counts are weighed on the whole energy; each by so many allowed counts at most."""

RECOMPUTED = 128
"""Marginal capacities are computed about so often on the way to a budget, and at every unit near it."""


def baseline_coupled(problem: Problem, budget: Budget, alignment: Alignment, separable: Row) -> Row:
    """Greedy pruning on the whole energy, or `separable` if that is better, after descent by swaps.

    `separable` (n,) meets the budget: greedy pruning of the part without couplings between groups.
    """
    walk = Walk(problem, budget, alignment)
    ends = [_settled(walk, separable)]
    if walk.free:
        ends.append(_settled(walk, np.zeros(len(separable), bool)))
    return min(ends, key=lambda x: float(problem.energy(x)))


def search_coupled(problem: Problem, budget: Budget, alignment: Alignment, starts: Sequence[Row], seed: int) -> Row:
    """(n,) the best selection found from `starts` (n,), which need not meet the budget: the result does, as allowed."""
    walk = Walk(problem, budget, alignment)
    settled = {x.tobytes(): x for x in (_settled(walk, start) for start in starts)}
    ranked = sorted(settled.values(), key=lambda x: float(problem.energy(x)))
    ends = [ranked[0]]
    for number, start in enumerate(ranked[:STARTS]):
        walk.go(start)
        tabu(walk, min(STEPS, PER_UNIT * len(start)), seeds.stream(seed, f"search tabu {number}"))
        _recount(walk)
        _trim(walk)
        settle(walk)
        ends.append(walk.x.copy())
    return min(ends, key=lambda x: float(problem.energy(x)))


def _settled(walk: Walk, start: Row) -> Row:
    """`start` brought to the budget, then to where no swap lowers the energy, without what the target can do without."""
    walk.go(start)
    _meet(walk)
    settle(walk)
    _trim(walk)
    settle(walk)
    return walk.x.copy()


def _meet(walk: Walk) -> None:
    """To the budget with allowed counts, by the smallest energy changes per capacity."""
    if not walk.free:
        _to_counts(walk, _nearest(walk))
    while (over := walk.counts - walk.alignment.most).max(initial=0) > 0:
        _step(walk, int(over.argmax()), -1)
    if walk.budget.counts_units:
        while (missing := walk.budget.target - int(walk.counts.sum())) != 0:
            groups = walk.room if missing > 0 else walk.counts > 0
            walk.flip(_cheapest(walk, groups[walk.group_of], np.ones(len(walk.counts)), missing > 0))
        return
    stride = max(1, len(walk.x) // RECOMPUTED)
    while (missing := walk.budget.target - int(walk.budget.capacity(walk.counts))) > 0:
        freed = np.maximum(walk.budget.marginals(walk.counts), 1e-9)
        if not walk.free:
            _raise_level(walk, freed)
            continue
        for _ in range(stride if missing > stride * freed.max() else 1):
            if walk.room.any():
                walk.flip(_cheapest(walk, walk.room[walk.group_of], freed, prune=True))


def _cheapest(walk: Walk, among: NDArray[np.bool_], freed: NDArray[np.float64], prune: bool) -> int:
    """The unit whose pruning costs the least energy per capacity, or whose restoring saves the most."""
    per_capacity = walk.fields / freed[walk.group_of]
    if prune:
        return int(np.where(among & ~walk.x, per_capacity, np.inf).argmin())
    return int(np.where(among & walk.x, per_capacity, -np.inf).argmax())


def _nearest(walk: Walk) -> Counts:
    """Allowed counts near those of the walk: of a count budget they have its sum, moving as few units as that takes."""
    allowed = walk.alignment.allowed
    if not walk.budget.counts_units:
        return np.array(
            [min(offer, key=lambda k: abs(k - at)) for offer, at in zip(allowed, walk.counts.tolist(), strict=True)]
        )
    nothing, no_rows = np.zeros(0), np.zeros((0, 0), bool)
    moved = [np.abs(np.arange(offer[-1] + 1.0) - at) for offer, at in zip(allowed, walk.counts.tolist(), strict=True)]
    return allocate_count([Profile(nothing, nothing, m, no_rows) for m in moved], walk.budget.target, allowed)


def _raise_level(walk: Walk, freed: NDArray[np.float64]) -> None:
    """One group to its next allowed count: the one whose cheapest units cost the least energy per capacity freed."""
    costs = np.full(len(walk.counts), np.inf)
    for g in np.flatnonzero(walk.room).tolist():
        number = _level(walk, g, 1) - int(walk.counts[g])
        own = walk.problem.space.spans[g]
        fields = np.sort(walk.fields[own][~walk.x[own]])[:number]
        costs[g] = float(fields.sum()) / (number * freed[g])
    g = int(costs.argmin())
    _step(walk, g, _level(walk, g, 1) - int(walk.counts[g]))


def _level(walk: Walk, group: int, far: int) -> int:
    """The allowed count so many places from the group's own; its own where there is none."""
    offer, at = walk.alignment.allowed[group], int(walk.counts[group])
    place = offer.index(at) + far
    return offer[place] if 0 <= place < len(offer) else at


def _step(walk: Walk, group: int, number: int) -> None:
    """So many units of the group go (or come back, below 0), each time the one of the best energy change."""
    own = walk.group_of == group
    for _ in range(abs(number)):
        walk.flip(_cheapest(walk, own, np.ones(len(walk.counts)), prune=number > 0))


def _to_counts(walk: Walk, counts: Counts) -> None:
    for g in np.argsort(counts - walk.counts, kind="stable").tolist():
        _step(walk, g, int(counts[g] - walk.counts[g]))


def _recount(walk: Walk) -> None:
    """Moves of allowed counts between groups, while they lower the energy: swaps alone keep the counts of aligned groups."""
    if walk.free and walk.budget.counts_units:
        return
    for _ in range(RECOUNTS):
        here, energy = walk.x.copy(), walk.energy
        best, best_energy = None, energy - walk.tolerance
        for counts in itertools.islice(_recounts(walk), FEASIBLE):
            _to_counts(walk, counts)
            settle(walk)
            if walk.energy < best_energy:
                best, best_energy = walk.x.copy(), walk.energy
            walk.go(here)
        if best is None:
            return
        walk.go(best)


def _recounts(walk: Walk) -> Iterator[Counts]:
    """Counts that meet the budget after a move of one group, or two; those first whose fields promise the lowest energy."""
    groups = range(len(walk.counts))
    single = [
        (g, _level(walk, g, far))
        for g in groups
        for far in range(-FAR, FAR + 1)
        if far and _level(walk, g, far) != walk.counts[g]
    ]
    promised = [_promised(walk, g, k) for g, k in single]
    moves: list[tuple[float, tuple[tuple[int, int], ...]]] = [(p, (s,)) for p, s in zip(promised, single, strict=True)]
    for a, b in itertools.combinations(range(len(single)), 2):
        if (single[a][1] > walk.counts[single[a][0]]) != (single[b][1] > walk.counts[single[b][0]]):
            moves.append((promised[a] + promised[b], (single[a], single[b])))
    for _, move in sorted(moves)[: 8 * FEASIBLE]:
        counts = walk.counts.copy()
        for g, k in move:
            counts[g] = k
        if len({g for g, _ in move}) == len(move) and walk.met(counts):
            yield counts


def _promised(walk: Walk, group: int, count: int) -> float:
    """Energy change of taking the group to `count`, as if its units did not see one another."""
    own = walk.problem.space.spans[group]
    fields, pruned, number = walk.fields[own], walk.x[own], count - int(walk.counts[group])
    if number > 0:
        return float(np.sort(fields[~pruned])[:number].sum())
    return -float(np.sort(fields[pruned])[number:].sum())


def _trim(walk: Walk) -> None:
    """Without every allowed step that the target can do without, the best energy change first. A count has none to spare."""
    while not walk.budget.counts_units:
        fewer = []
        for g in np.flatnonzero(walk.counts).tolist():
            counts = walk.counts.copy()
            counts[g] = _level(walk, g, -1)
            if counts[g] < walk.counts[g] and walk.met(counts):
                fewer.append((_promised(walk, g, int(counts[g])), g, int(counts[g] - walk.counts[g])))
        if not fewer:
            return
        _, g, number = min(fewer)
        _step(walk, g, number)
