"""Counts per group out of allowed ones, for a cost: all combinations where they are few, else descent by blocks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from qcompress.alignment import Alignment
from qcompress.budgets import Budget
from qcompress.search_profiles import Profile

__all__ = ["allocate_blocks"]

Levels = NDArray[np.int64]  # (G,) places in each group's allowed counts

COMBINATIONS = 2048
"""So many are enumerated: each asks for one exact cost, some 20 to 200 microseconds."""

ROUNDS = 200
"""At most so many moves improve an allocation; a few are usual."""

TRIES = 200
"""At most so many promising moves are checked for their exact capacity before an allocation counts as settled."""

FAR = 3
"""A move takes at most so many allowed counts in a group at once."""


def allocate_blocks(profiles: Sequence[Profile], budget: Budget, alignment: Alignment) -> NDArray[np.int64]:
    """(G,) allowed counts of low energy whose capacity is at least the target, which all allowed together reach.

    No block is pruned that the target can do without. Of all such counts the best for the given profiles, where there are at
    most `COMBINATIONS`; else the best of a descent from each of several starts.
    """
    table = _Table(profiles, budget, alignment)
    if table.combinations <= COMBINATIONS:
        return table.counts(_enumerate(table))
    ends = [_descend(table, start) for start in _starts(table)]
    return table.counts(min(ends, key=table.energy))


class _Table:
    """Energies and exact capacities by level: level l of a group prunes its l-th allowed count."""

    def __init__(self, profiles: Sequence[Profile], budget: Budget, alignment: Alignment) -> None:
        self.allowed = [np.array(counts, np.int64) for counts in alignment.allowed]
        self.energies = [profile.energies[counts] for profile, counts in zip(profiles, self.allowed, strict=True)]
        self.top: Levels = np.array([len(counts) - 1 for counts in self.allowed], np.int64)
        self.budget = budget
        self.tolerance = 1e-10 * sum(float(np.abs(energies).max()) for energies in self.energies)

    @property
    def combinations(self) -> int:
        number = 1
        for top in self.top.tolist():
            number *= top + 1
        return number

    def counts(self, levels: Levels) -> NDArray[np.int64]:
        """(..., G) pruned units per group."""
        columns = [counts[levels[..., g]] for g, counts in enumerate(self.allowed)]
        return np.stack(columns, -1) if columns else np.zeros(levels.shape, np.int64)

    def capacity(self, levels: Levels) -> NDArray[np.int64]:
        return self.budget.capacity(self.counts(levels))

    def energy(self, levels: Levels) -> float:
        return sum(float(energies[level]) for energies, level in zip(self.energies, levels.tolist(), strict=True))

    def reaches(self, levels: Levels) -> bool:
        return bool(self.capacity(levels) >= self.budget.target)


def _enumerate(table: _Table) -> Levels:
    """The lowest energy of all combinations that reach the target and can spare no block."""
    shape = tuple((table.top + 1).tolist())
    levels = np.indices(shape).reshape(len(shape), table.combinations).T
    reaches = (table.capacity(levels) >= table.budget.target).reshape(shape)
    tight = reaches.copy()
    for axis in range(len(shape)):
        after = (slice(None),) * axis + (slice(1, None),)
        before = (slice(None),) * axis + (slice(None, -1),)
        tight[after] &= ~reaches[before]
    energy = np.zeros(shape)
    for axis, energies in enumerate(table.energies):
        energy += energies.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    best: Levels = levels[int(np.where(tight, energy, np.inf).argmin())]
    return best


def _starts(table: _Table) -> Iterator[Levels]:
    """Levels that reach the target: by energy per capacity, block by block; the same share of every group; everything."""
    yield _greedy(table)
    shares = (np.ceil(part * table.top).astype(np.int64) for part in np.linspace(0, 1, 1 + int(table.top.max(initial=1))))
    yield next(levels for levels in shares if table.reaches(levels))
    yield table.top.copy()


def _greedy(table: _Table) -> Levels:
    levels = np.zeros(len(table.top), np.int64)
    while (missing := table.budget.target - int(table.capacity(levels))) > 0:
        steps = [(g, far) for g in range(len(levels)) for far in range(1, min(FAR, int(table.top[g] - levels[g])) + 1)]
        more = np.array([_moved(levels, (g, far)) for g, far in steps])
        freed = np.minimum(table.capacity(more) - table.capacity(levels), missing)
        costs = np.array([table.energies[g][levels[g] + far] - table.energies[g][levels[g]] for g, far in steps])
        levels = more[int((costs / np.maximum(freed, 1e-9)).argmin())]
    return levels


def _descend(table: _Table, levels: Levels) -> Levels:
    """From levels that reach the target, down in energy by moves of two groups, or three; then without blocks to spare."""
    for _ in range(ROUNDS):
        moves = (itertools.islice(_moves(table, levels, groups), TRIES) for groups in (2, 3))
        better = next((moved for moved in itertools.chain.from_iterable(moves) if table.reaches(moved)), None)
        if better is None:
            break
        levels = better
    while (spare := _spare(table, levels)) is not None:
        levels = spare
    return levels


def _moves(table: _Table, levels: Levels, groups: int) -> Iterator[Levels]:
    """Levels after moves that lower the energy, the greatest gain first: blocks back in some of `groups`, gone in the others.

    Of two groups each moves by up to `FAR` levels, or one stays; of three, each by one. What one group's move frees or gives
    back is exact; that they add up is an estimate, with a margin for what it misses, and the caller checks.
    """
    here, far = int(table.capacity(levels)), FAR if groups == 2 else 1
    single = [
        (g, step)
        for g, level in enumerate(levels.tolist())
        for step in range(-far, far + 1)
        if step and 0 <= level + step <= table.top[g]
    ]
    freed = [int(table.capacity(_moved(levels, move))) - here for move in single]
    paid = [float(table.energies[g][levels[g] + step] - table.energies[g][levels[g]]) for g, step in single]
    likely = [(1.1 if f > 0 else 0.9) * f for f in freed]
    needed = table.budget.target - here
    moves = []
    for number in (1, 2) if groups == 2 else (3,):
        for chosen in itertools.combinations(range(len(single)), number):
            change = sum(paid[c] for c in chosen)
            if change < -table.tolerance and sum(likely[c] for c in chosen) >= needed:
                moves.append((change, chosen))
    for _, chosen in sorted(moves):
        if len({single[c][0] for c in chosen}) == len(chosen):
            yield _moved(levels, *(single[c] for c in chosen))


def _spare(table: _Table, levels: Levels) -> Levels | None:
    """Levels less the block that costs the most energy of those that the target can do without; None if there is none."""
    fewer = [
        (float(table.energies[g][level - 1] - table.energies[g][level]), _moved(levels, (g, -1)))
        for g, level in enumerate(levels.tolist())
        if level
    ]
    fits = [(change, moved) for change, moved in fewer if table.reaches(moved)]
    return min(fits, key=lambda pair: pair[0])[1] if fits else None


def _moved(levels: Levels, *moves: tuple[int, int]) -> Levels:
    moved = levels.copy()
    for group, far in moves:
        moved[group] += far
    return moved
