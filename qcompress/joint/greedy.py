"""The baseline: units go and layers are narrowed one step after the other, always by the least energy per byte."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qcompress.joint.table import State, Table

__all__ = ["greedy"]


def greedy(table: Table, most: int, start: State | None = None, *, held: bool = False) -> State | None:
    """A choice of at most `most` bytes, from `start` (None: the whole network); None where no step leads there.

    What it can do without at the end is taken back. With `held` the counts stay, and only layers are narrowed.
    """
    state = table.start if start is None else start
    while (size := table.bytes_of(state)) > most:
        moved, energy, freed = _steps(table, state, 1, held)
        rates = np.where(freed > 0, energy / np.maximum(freed, 1), np.inf)
        if not np.isfinite(rates.min(initial=np.inf)):
            return None
        state = _nth(moved, int(rates.argmin()))
    while True:
        moved, energy, freed = _steps(table, state, -1, held)
        gains = np.where(size - freed <= most, energy, np.inf)
        if not gains.min(initial=np.inf) < -table.tolerance:
            return state
        state = _nth(moved, int(gains.argmin()))
        size = table.bytes_of(state)


def _steps(table: Table, state: State, far: int, held: bool) -> tuple[State, NDArray[np.float64], NDArray[np.int64]]:
    """(K, ...) choices one step on, or back, of one group or layer; (K,) what each costs, and the bytes that it frees."""
    both, groups = np.concatenate(state), len(state.levels)
    tops = np.array([len(own) - 1 for own in (*table.offers, *table.widths)], np.int64)
    free = (both + far >= 0) & (both + far <= tops)
    if held:
        free[:groups] = False
    rows = both + far * np.eye(len(both), dtype=np.int64)[free]
    moved = State(rows[:, :groups], rows[:, groups:])
    tables = (*table.energies, *table.losses)
    energy = np.array([tables[v][both[v] + far] - tables[v][both[v]] for v in np.flatnonzero(free).tolist()], np.float64)
    return moved, energy, table.bytes_of(state) - table.bytes(*moved)


def _nth(states: State, number: int) -> State:
    return State(states.levels[number], states.widths[number])
