"""Widths where no size is asked for: how much loss a byte is worth, and what each layer then takes.

A layer is narrowed as long as the loss per byte saved is in proportion. The measure is what pruning paid for its last bytes, or
`PROPORTION` times what the whole network pays on average for int8 (for the next width, where that is not allowed): the larger.
So `--bits 8` is int8 everywhere; with wider widths besides, the layers that int8 harms out of proportion keep more bits, as a
first or last layer may; and int4 is taken where it is as cheap as that.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qcompress.joint.table import State, Table
from qcompress.widths import WIDTHS

__all__ = ["PROPORTION", "rate", "traded"]

PROPORTION = 4.0


def rate(table: Table, state: State) -> float:
    """Energy per byte that is worth paying, at the counts of `state`."""
    return max(_paid(table, state), PROPORTION * _average(table, state))


def traded(table: Table, state: State, price: float) -> State:
    """`state` with every layer at the width of least loss + `price` bytes; of equal ones the widest."""
    best = State(state.levels, state.widths.copy())
    for layer, own in enumerate(table.widths):
        costs = table.losses[layer] + price * _bytes(table, state, layer)
        best.widths[layer] = int(np.flatnonzero(costs <= costs.min() + table.tolerance)[0]) if len(own) > 1 else 0
    return best


def _bytes(table: Table, state: State, layer: int) -> NDArray[np.int64]:
    """(widths,) of a layer at each of its widths."""
    widths = np.tile(state.widths, (len(table.widths[layer]), 1))
    widths[:, layer] = np.arange(len(widths))
    counts = np.tile(table.counts(state.levels), (len(widths), 1))
    return np.asarray(table.layer_bytes(counts, widths)[:, layer])


def _paid(table: Table, state: State) -> float:
    """Energy per byte that a group's last units cost, the median of all pruned groups; 0 where none is pruned."""
    rates = []
    for group in np.flatnonzero(state.levels).tolist():
        before = State(state.levels.copy(), state.widths)
        before.levels[group] -= 1
        own = table.energies[group]
        freed = table.bytes_of(before) - table.bytes_of(state)
        if freed > 0:
            rates.append(float(own[state.levels[group]] - own[state.levels[group] - 1]) / freed)
    return float(np.median(rates)) if rates else 0.0


def _average(table: Table, state: State) -> float:
    """Energy per byte saved with every layer at int8, or at the width that it may have next to that."""
    int8, energy, saved = WIDTHS.index("int8"), 0.0, 0
    for layer, own in enumerate(table.widths):
        place = min(int(np.searchsorted(own, int8)), len(own) - 1)
        counts = _bytes(table, state, layer)
        energy += float(table.losses[layer][place] - table.losses[layer][0])
        saved += int(counts[0] - counts[place])
    return energy / saved if saved > 0 else 0.0
