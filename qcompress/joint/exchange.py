"""Improvement of a choice by exact exchanges: groups and layers move together, such as a block that goes for a wider layer.

A move takes one group to another allowed count, or one layer to another width. Energies add up, bytes do not: where two moves
meet in a layer their product counts. So exchanges of up to four moves are proposed by energy and decided by exact bytes.
At the best price per byte, the moves of an exchange that pays are close to costing nothing (the core of a knapsack problem,
Balas and Zemel, 1980): those are the ones that are combined.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from qcompress.joint.table import State, Table

__all__ = ["Limit", "improve"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ROUNDS = 2000
"""At most so many exchanges; each lowers the energy, and some dozens are usual."""

NEAR = 8
"""A group moves by up to so many places in its offer, by twice as many, and so on, and to both ends."""

POOLS = (320, 64, 26)
"""So many moves, those of the least cost at the price, are combined by two, by three and by four."""

CHECKED, BATCH = 4096, 512
"""At most so many promising exchanges are checked for exact bytes, so many at a time."""


@dataclass(frozen=True)
class Limit:
    """What a choice must keep to: `bytes` at most, and the number of pruned units that it has where `held`."""

    bytes: int
    held: bool = False


@dataclass(frozen=True, eq=False)
class _Moves:
    """Single moves from a state: variable (a group, or a layer behind them), its new place, and what that changes."""

    variable: Ints
    place: Ints
    energy: Floats
    bytes: Floats
    units: Ints

    def some(self, which: NDArray[np.intp]) -> _Moves:
        return _Moves(self.variable[which], self.place[which], self.energy[which], self.bytes[which], self.units[which])

    def __len__(self) -> int:
        return len(self.variable)


def improve(table: Table, state: State, limit: Limit, price: float) -> State:
    """`state`, which keeps to the limit, after exchanges as long as one lowers the energy; at the end no single move does.

    `price` is about what a byte is worth in energy at the limit.
    """
    for _ in range(ROUNDS):
        moves = _moves(table, state)
        cost = moves.energy + price * moves.bytes
        if limit.held:  # a unit that goes has to come back elsewhere, at about this price
            cost = cost - _unit_price(moves, cost) * moves.units
        near = np.argsort(cost, kind="stable")
        for number, pool in enumerate((len(near), *POOLS), 1):
            better = _best(table, state, moves.some(near[:pool]), number, limit)
            if better is not None:
                state = better
                break
        else:
            return state
    return state


def _moves(table: Table, state: State) -> _Moves:
    variables: list[int] = []
    places: list[int] = []
    energies = []
    tables, at = (*table.energies, *table.losses), [*state.levels.tolist(), *state.widths.tolist()]
    for variable, (entries, here) in enumerate(zip(tables, at, strict=True)):
        near = _near(here, len(entries))
        variables += [variable] * len(near)
        places += near
        energies.append(entries[near] - entries[here])
    which, where = np.array(variables, np.int64), np.array(places, np.int64)
    after = _applied(state, which[:, None], where[:, None])
    counts = table.counts(after.levels)
    return _Moves(
        which,
        where,
        np.concatenate([np.zeros(0), *energies]),
        (table.bytes(*after) - table.bytes_of(state)).astype(np.float64),
        counts.sum(-1) - int(table.counts(state.levels).sum()),
    )


@lru_cache(maxsize=4096)
def _near(here: int, length: int) -> list[int]:
    """Places other than `here` that a move may go to."""
    far = [*range(1, NEAR + 1)]
    while far[-1] < length:
        far.append(2 * far[-1])
    steps = (0, length - 1, *(here - f for f in far), *(here + f for f in far))
    return sorted({place for place in steps if 0 <= place < length and place != here})


def _unit_price(moves: _Moves, cost: Floats) -> float:
    """Energy per unit at which units go and stay: the median over the groups' nearest moves."""
    groups = moves.units != 0
    return float(np.median(cost[groups] / moves.units[groups])) if groups.any() else 0.0


def _best(table: Table, state: State, moves: _Moves, number: int, limit: Limit) -> State | None:
    """The exchange of `number` of the moves that lowers the energy most and keeps to the limit; None if there is none."""
    members = _combinations(len(moves), number)
    energy = np.sum([moves.energy[each] for each in members], axis=0)
    lower = np.flatnonzero(energy < -table.tolerance)
    members, energy = tuple(each[lower] for each in members), energy[lower]
    changes = np.array([moves.bytes[each] for each in members])
    margin = 0.25 * np.abs(changes).sum(0) if number > 1 else 0.0
    fine = changes.sum(0) <= limit.bytes - table.bytes_of(state) + margin
    if limit.held:
        fine &= np.sum([moves.units[each] for each in members], axis=0) == 0
    for first, second in itertools.combinations(members, 2):
        fine &= moves.variable[first] != moves.variable[second]
    chosen, energy = np.stack(members, 1)[fine], energy[fine]
    promising = np.argsort(energy, kind="stable")[:CHECKED]
    for start in range(0, len(promising), BATCH):
        batch = chosen[promising[start : start + BATCH]]
        after = _applied(state, moves.variable[batch], moves.place[batch])
        fits = np.flatnonzero(table.bytes(*after) <= limit.bytes)
        if len(fits):
            return State(after.levels[fits[0]], after.widths[fits[0]])
    return None


@lru_cache(maxsize=64)
def _combinations(length: int, number: int) -> tuple[NDArray[np.intp], ...]:
    """`number` columns: the places of so many different moves out of `length`, in all combinations."""
    if number == 1:
        return (np.arange(length),)
    fewer = _combinations(length, number - 1)
    rest = length - 1 - fewer[-1]  # places behind the last
    starts = np.concatenate((np.zeros(1, np.intp), np.cumsum(rest)[:-1])) if len(rest) else rest
    last = np.arange(rest.sum()) - np.repeat(starts, rest) + np.repeat(fewer[-1] + 1, rest)
    return (*(np.repeat(column, rest) for column in fewer), last)


def _applied(state: State, variable: Ints, place: Ints) -> State:
    """(K, G) levels and (K, layers) widths after K exchanges of moves (K, m)."""
    groups = len(state.levels)
    both = np.tile(np.concatenate((state.levels, state.widths)), (len(variable), 1))
    np.put_along_axis(both, variable, place, axis=1)
    return State(both[:, :groups], both[:, groups:])
