"""How many units go in which group where their sum is given, and how wide every layer is, for a file of at most so many bytes.

A price per unit takes the place of the sum, as one per byte does of the limit. Near the best prices, counts with that sum are
made by the dynamic program over it, from what each count of a group costs with the others as they are; widths follow, and exact
exchanges that keep the sum go on from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from qcompress import seeds
from qcompress.errors import UsageError
from qcompress.joint.allocation import ENOUGH, Allocation, whole_line
from qcompress.joint.exchange import Limit, improve
from qcompress.joint.greedy import greedy
from qcompress.joint.lines import Line, steep
from qcompress.joint.relaxation import Relaxation
from qcompress.joint.table import State, Table
from qcompress.search_allocation import allocate_count
from qcompress.search_profiles import Profile

__all__ = ["allocate_held", "counted"]

PRICES, FEW_PRICES = 14, 5
"""So many prices per unit are tried; the few where an allocation is one of many."""

KICKS = 10
"""So often exchanges begin again from a disturbed choice, unless it is near enough to the bound or one of many."""

STARTS = 3
"""So many of the best choices that fit are improved by exchanges."""

RAISES = 40
"""At most so often the price per byte is raised by a half until widths fit."""


def allocate_held(table: Table, most: int, units: int, *, quick: bool = False) -> Allocation:
    """The choice of least energy found with exactly `units` pruned, some sum of allowed counts, and at most `most` bytes.

    `quick`: one of many, looked for less hard.
    Raises UsageError where it finds none that fits.
    """
    first = counted(table, table.energies, units)
    wide = State(first, table.start.widths)
    if table.bytes_of(wide) <= most:
        return _allocation(table, wide, table.energy(wide))
    relaxation, bound, best_price = Relaxation(table), table.energy(wide), 0.0
    found: list[State] = []
    low, high = _unit_prices(table)
    for number in range(FEW_PRICES if quick else PRICES):
        middle = (low + high) / 2 if number else 0.0
        drawn = _priced(table, middle, most, found)
        if drawn is None:
            break
        drawn_line, whole, value = drawn
        bound, best_price = max(bound, (value + middle * units) if whole else -np.inf), drawn_line.price
        for end in drawn_line.ends:
            found += _brought(relaxation, end, drawn_line.price, most, units)
        low, high = (middle, high) if _units_at(table, drawn_line, most) < units else (low, middle)
    plain = greedy(table, most, wide, held=True)
    found += [] if plain is None else [plain]
    found += _brought(relaxation, wide, steep(table), most, units)
    if not found:
        raise UsageError(
            f"a file of {most:,} bytes with {units} units pruned cannot be reached: no smaller one was found",
            "ask for a larger file or a higher --sparsity, or allow narrower widths with --bits",
        )
    unique = {(*state.levels.tolist(), *state.widths.tolist()): state for state in found}
    ranked = sorted(unique.values(), key=table.energy)[:STARTS]
    ends = [improve(table, state, Limit(most, held=True), best_price) for state in ranked]
    best = min(ends, key=table.energy)
    return _allocation(table, best if quick else _kicked(table, best, most, best_price, bound), bound)


def _kicked(table: Table, best: State, most: int, price: float, bound: float) -> State:
    """The best of exchanges that begin again where units of some groups changed places at random, each time from the best."""
    rng = seeds.stream(0, "held kicks")
    for _ in range(KICKS if len(table.offers) > 1 else 0):
        if table.energy(best) <= bound * (1 + ENOUGH):
            break
        levels = best.levels.copy()
        for _ in range(int(rng.integers(1, 4))):
            levels = _swapped(table, levels, rng)
        start = greedy(table, most, State(levels, table.start.widths), held=True)
        if start is not None:
            best = min(best, improve(table, start, Limit(most, held=True), price), key=table.energy)
    return best


def _swapped(table: Table, levels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """`levels` after units came back in one group and as many went in another, where counts allow that."""
    first, second = rng.choice(len(levels), 2, replace=False).tolist()
    one, other = table.offers[first], table.offers[second]
    fits = np.flatnonzero(np.isin(one[levels[first]] + other[levels[second]] - one, other))
    fits = fits[fits != levels[first]]
    changed = levels.copy()
    if len(fits):
        changed[first] = rng.choice(fits)
        changed[second] = np.searchsorted(other, one[levels[first]] + other[levels[second]] - one[changed[first]])
    return changed


def _allocation(table: Table, state: State, bound: float) -> Allocation:
    return Allocation(state, table.energy(state), table.bytes_of(state), min(bound, table.energy(state)))


def _unit_prices(table: Table) -> tuple[float, float]:
    """Prices per unit between which the best one is: at the lower nothing is worth pruning, at the higher everything."""
    rises = [np.diff(own) / np.diff(offer) for own, offer in zip(table.energies, table.offers, strict=True) if len(offer) > 1]
    most = max((float(own.max()) for own in rises), default=0.0)
    return -most, most


def _priced(table: Table, price: float, most: int, known: Sequence[State]) -> tuple[Line, bool, float] | None:
    """The line where every pruned unit earns `price`, whether its value is a bound, and that; None where nothing fits."""
    paid = tuple(own - price * offer for own, offer in zip(table.energies, table.offers, strict=True))
    try:
        found, whole = whole_line(replace(table, energies=paid), most, [*known[-2:], table.start])
    except UsageError:
        return None
    return found, whole, found.value


def _units_at(table: Table, drawn: Line, most: int) -> float:
    """Units that the line prunes at the limit, between those of its ends."""
    counts = [float(table.counts(end.levels).sum()) for end in drawn.ends]
    if drawn.over is None:
        return counts[0]
    share = (drawn.over.bytes - most) / (drawn.over.bytes - drawn.fits.bytes)
    return counts[1] + share * (counts[0] - counts[1])


def _brought(relaxation: Relaxation, state: State, price: float, most: int, units: int) -> list[State]:
    """A choice near `state` with so many units that fits; none where even the narrowest widths do not."""
    table = relaxation.table
    near = state.levels.tolist()
    levels = counted(table, [relaxation.alone(price, group, near) for group in range(len(table.offers))], units)
    for _ in range(RAISES):
        made = State(levels, relaxation.widths(price, levels))
        if table.bytes_of(made) <= most:
            return [made]
        price *= 1.5
    made = State(levels, relaxation.widths(steep(table), levels))
    return [made] if table.bytes_of(made) <= most else []


def counted(table: Table, energies: Sequence[NDArray[np.float64]], units: int) -> NDArray[np.int64]:
    """(G,) places in the offers whose counts have the sum `units`, of least energy, by the energies of every place."""
    nothing, no_rows = np.zeros(0), np.zeros((0, 0), bool)
    profiles = []
    for offer, own in zip(table.offers, energies, strict=True):
        spread = np.full(int(offer[-1]) + 1, np.inf)
        spread[offer] = own
        profiles.append(Profile(nothing, nothing, spread, no_rows))
    counts = allocate_count(profiles, units, [offer.tolist() for offer in table.offers])
    return np.array([int(np.searchsorted(offer, k)) for offer, k in zip(table.offers, counts.tolist(), strict=True)], np.int64)
