"""How many units go in which group where their sum is given, and how wide every layer is, for a file of at most so many bytes.

At a price per byte and counts that are known, a group's bytes at each of its counts are known too, the others as they are; the
dynamic program over the sum then gives counts that are known better. That is repeated from price to price, between the one that
is too low for the limit and the one that is not, and exact exchanges that keep the sum go on from there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qcompress.errors import UsageError
from qcompress.joint.allocation import Allocation
from qcompress.joint.exchange import Limit, improve
from qcompress.joint.relaxation import Relaxation
from qcompress.joint.table import State, Table
from qcompress.search_allocation import allocate_count
from qcompress.search_profiles import Profile

__all__ = ["allocate_held", "counted"]

HALVINGS = 24
"""Of the interval of prices, on a logarithmic scale."""

SWEEPS = 4
"""So often counts are made of counts at one price."""

STARTS = 3
"""So many of the best choices that fit are improved by exchanges."""


def allocate_held(table: Table, most: int, units: int) -> Allocation:
    """The choice of least energy found with exactly `units` pruned, some sum of allowed counts, and at most `most` bytes.

    Raises UsageError where it finds none that fits.
    """
    relaxation = Relaxation(table)
    start = counted(table, table.energies, units)
    over = _settled(relaxation, start, 0.0, units)
    if table.bytes_of(over) <= most:
        return _allocation(table, over, table.energy(over))
    high = 1.0 + sum(float(np.ptp(entries)) for entries in (*table.energies, *table.losses) if len(entries))
    fits = _settled(relaxation, start, high, units)
    if table.bytes_of(fits) > most:
        raise UsageError(
            f"a file of {most:,} bytes with {units} units pruned cannot be reached: the smallest found has "
            f"{table.bytes_of(fits):,}",
            "ask for a larger file or a higher --sparsity, or allow narrower widths with --bits",
        )
    found, price = [fits], high
    low = high * 1e-12
    for _ in range(HALVINGS):
        middle = float(np.sqrt(low * high))
        state = _settled(relaxation, found[-1].levels, middle, units)
        if table.bytes_of(state) <= most:
            high = price = middle
            found.append(state)
        else:
            low = middle
        if high < 1.01 * low:
            break
    ranked = sorted(found, key=table.energy)[:STARTS]
    ends = [improve(table, state, Limit(most, held=True), price) for state in ranked]
    return _allocation(table, min(ends, key=table.energy), None)


def _allocation(table: Table, state: State, bound: float | None) -> Allocation:
    return Allocation(state, table.energy(state), table.bytes_of(state), bound)


def counted(table: Table, energies: Sequence[NDArray[np.float64]], units: int) -> NDArray[np.int64]:
    """(G,) places in the offers whose counts have that sum, of least energy."""
    nothing, no_rows = np.zeros(0), np.zeros((0, 0), bool)
    profiles = []
    for offer, own in zip(table.offers, energies, strict=True):
        spread = np.full(int(offer[-1]) + 1, np.inf)
        spread[offer] = own
        profiles.append(Profile(nothing, nothing, spread, no_rows))
    counts = allocate_count(profiles, units, [offer.tolist() for offer in table.offers])
    return np.array([int(np.searchsorted(offer, k)) for offer, k in zip(table.offers, counts.tolist(), strict=True)], np.int64)


def _settled(relaxation: Relaxation, levels: NDArray[np.int64], price: float, units: int) -> State:
    """The best choice at a price that counts made of counts come by, from `levels`."""
    table = relaxation.table
    best, value = None, np.inf
    for _ in range(SWEEPS):
        state = State(levels, relaxation.widths(price, levels))
        found = table.energy(state) + price * table.bytes_of(state)
        if not found < value:
            break
        best, value = state, found
        levels = counted(table, [relaxation.alone(price, group, levels) for group in range(len(table.offers))], units)
    assert best is not None  # the first is better than none
    return best
