"""How many units go in which group, and how wide every layer is, for a file of at most so many bytes.

A price per byte takes the place of the limit (Everett, 1963), and the choice at a price is found by elimination. The best price
is where the line through the best choice above the limit and the best below it touches the lower hull of all choices; what lies
between hull and limit is closed by exact exchanges. The value at the best price is a bound: no choice that fits loses less.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcompress.errors import UsageError
from qcompress.joint.exchange import Limit, improve
from qcompress.joint.relaxation import Offered, Relaxation, everything
from qcompress.joint.table import State, Table

__all__ = ["Allocation", "allocate_bytes"]

LABELS = 65
"""Of a group that offers more counts, so many evenly spaced ones are tried first, then those between the best."""

PRICES = 60
"""At most so many prices; ten are usual."""

SPLITS = 32
"""At most so often what is offered is split in two."""

ENOUGH = 5e-4
"""Of the energy: where the bound is as near as that, nothing is split any more."""


@dataclass(frozen=True, eq=False)
class Allocation:
    """A choice that fits, what it loses and takes, and the energy that none that fits is below (None: not known)."""

    state: State
    energy: float
    bytes: int
    bound: float | None


@dataclass(frozen=True, eq=False)
class _Point:
    state: State
    energy: float
    bytes: int


@dataclass(frozen=True, eq=False)
class _Line:
    """The ends of the last line: `fits` keeps to the limit, `over` does not (None: the least energy of all fits).

    `value` is its height at the limit, which no choice out of `offered` that fits is below.
    """

    offered: Offered
    fits: _Point
    over: _Point | None
    price: float
    value: float


def allocate_bytes(table: Table, most: int, *, splits: int = SPLITS) -> Allocation:
    """The choice of least energy found whose file has at most `most` bytes. No single move that lowers the energy fits besides.

    Where the bound leaves something open, what is offered is split in two, at most `splits` times.

    Raises UsageError where no choice fits; the message has the smallest size.
    """
    line, whole = _root(table, most)
    best = _closed(table, line, most)
    bound = line.value
    if whole:
        best, bound = _branched(table, line, best, most, splits)
    energy = table.energy(best)
    return Allocation(best, energy, table.bytes_of(best), min(bound, energy) if whole else None)


def _root(table: Table, most: int) -> tuple[_Line, bool]:
    """The line over all that is offered, and whether that was looked at whole: of large groups first some counts, then those
    between the best.
    """
    strides = [max(1, -(-(len(offer) - 1) // (LABELS - 1))) for offer in table.offers]
    widths = everything(table)[1]
    offered = tuple(_places(len(offer), [], stride) for offer, stride in zip(table.offers, strides, strict=True))
    relaxation = Relaxation(table, (offered, widths))
    line = _found(_line(relaxation, most, table.start), table, most)
    whole = relaxation.exact and max(strides, default=1) == 1
    while max(strides, default=1) > 1:
        strides = [-(-stride // 2) for stride in strides]
        ends = [end.state.levels.tolist() for end in (line.fits, line.over) if end is not None]
        near = zip(table.offers, zip(*ends, strict=True), strides, strict=True)
        offered = tuple(_places(len(offer), own, stride) for offer, own, stride in near)
        finer = _line(Relaxation(table, (offered, widths)), most, line.fits.state)
        line = line if finer is None or finer.fits.energy > line.fits.energy else finer
    return line, whole


def _found(line: _Line | None, table: Table, most: int) -> _Line:
    """Raises UsageError for None."""
    if line is None:
        least = Relaxation(table).solve(_steep(table), table.start)
        raise UsageError(
            f"a file of {most:,} bytes cannot be reached: the smallest that the floors of the groups and the widths allow "
            f"has {table.bytes_of(least):,}",
            "ask for a larger file, or allow narrower widths with --bits",
        )
    return line


def _closed(table: Table, line: _Line, most: int) -> State:
    """The best of exchanges from the line's end that fits, and from its other end brought to fit."""
    starts = [line.fits.state]
    if line.over is not None:
        starts.append(_between(table, line.over.state, line.fits.state, most))
    return min((improve(table, start, Limit(most), line.price) for start in starts), key=table.energy)


def _branched(table: Table, root: _Line, best: State, most: int, splits: int) -> tuple[State, float]:
    """The best choice after what is offered was split again and again where the ends of its line differ, and the bound."""
    energy, number = table.energy(best), itertools.count()
    heap = [(root.value, next(number), root)]
    done = np.inf  # the least bound of what is not split any more
    for _ in range(splits):
        if not heap or min(heap[0][0], done) >= energy - ENOUGH * abs(energy):
            break
        value, _, line = heapq.heappop(heap)
        parts = _split(table, line)
        if not parts:
            done = min(done, value)
        for part in parts:
            found = _line(Relaxation(table, part), most, line.fits.state, line)
            if found is None or found.value >= energy - table.tolerance:
                continue
            state = improve(table, found.fits.state, Limit(most), found.price)
            if table.energy(state) < energy:
                best, energy = state, table.energy(state)
            heapq.heappush(heap, (max(found.value, value), next(number), found))
    return best, min(done, heap[0][0] if heap else np.inf, energy)


def _split(table: Table, line: _Line) -> list[Offered]:
    """What the line was drawn over in two: at the group or the layer of the most bytes in which its ends differ."""
    if line.over is None:
        return []
    steps = []
    for part, (fits, over) in enumerate(zip(line.fits.state, line.over.state, strict=True)):
        for place in np.flatnonzero(fits != over).tolist():
            moved = State(line.fits.state.levels.copy(), line.fits.state.widths.copy())
            moved[part][place] = over[place]
            steps.append((abs(table.bytes_of(moved) - line.fits.bytes), part, place, min(fits[place], over[place])))
    if not steps:
        return []
    _, part, place, last = max(steps)
    own = line.offered[part][place]
    halves = []
    for half in (own[own <= last], own[own > last]):
        offered = (list(line.offered[0]), list(line.offered[1]))
        offered[part][place] = half
        halves.append((tuple(offered[0]), tuple(offered[1])))
    return halves


def _line(relaxation: Relaxation, most: int, start: State, parent: _Line | None = None) -> _Line | None:
    """Prices from the two ends of the hull inwards, until no choice lies below the line between the two around the limit.

    None where nothing that is offered fits. Of the line over more, `parent`, an end that is still offered is where this begins.
    """
    table, offered = relaxation.table, (relaxation.offered, relaxation.allowed)
    start = State(_nearest(relaxation.offered, start.levels), _nearest(relaxation.allowed, start.widths))

    def at(price: float, start: State) -> _Point:
        state = relaxation.solve(price, start)
        return _Point(state, table.energy(state), table.bytes_of(state))

    over = _still(parent and parent.over, offered) or at(0.0, start)
    if over.bytes <= most:
        return _Line(offered, over, None, 0.0, over.energy)
    fits = _still(parent and parent.fits, offered) or at(_steep(table), start)
    if fits.bytes > most:
        return None
    price = value = 0.0
    for _ in range(PRICES):
        price = max((fits.energy - over.energy) / (over.bytes - fits.bytes), 0.0)
        line = over.energy + price * (over.bytes - most)
        point = at(price, fits.state)
        value = min(line, point.energy + price * (point.bytes - most))
        if not value < line - table.tolerance:
            break
        fits, over = (point, over) if point.bytes <= most else (fits, point)
    return _Line(offered, fits, over, price, value)


def _still(point: _Point | None, offered: Offered) -> _Point | None:
    """`point`, if it is offered."""
    if point is None:
        return None
    pairs = zip((*offered[0], *offered[1]), (*point.state.levels, *point.state.widths), strict=True)
    return point if all(place in own for own, place in pairs) else None


def _nearest(offered: Sequence[NDArray[np.int64]], places: NDArray[np.int64]) -> NDArray[np.int64]:
    """The offered places nearest to `places`."""
    return np.array([own[np.abs(own - place).argmin()] for own, place in zip(offered, places, strict=True)], np.int64)


def _steep(table: Table) -> float:
    """A price at which one byte is worth more than all energy."""
    return 1.0 + 2 * sum(float(np.ptp(entries)) for entries in (*table.energies, *table.losses) if len(entries))


def _places(length: int, centres: Sequence[int], stride: int) -> NDArray[np.int64]:
    """Places of an offer, `stride` apart: all over it, or around `centres`; both ends are among them."""
    if stride == 1 and (length <= LABELS or not centres):
        return np.arange(length)
    steps = stride * np.arange(-(LABELS // 4), LABELS // 4 + 1)
    near = [np.arange(0, length, stride)] if not centres else [centre + steps for centre in centres]
    return np.unique(np.clip(np.concatenate((*near, [0, length - 1])), 0, length - 1)).astype(np.int64)


def _between(table: Table, over: State, fits: State, most: int) -> State:
    """From the choice that does not fit towards the one that does, by the moves of least energy per byte, until it fits."""
    state = State(over.levels.copy(), over.widths.copy())
    while table.bytes_of(state) > most:
        energy, size = table.energy(state), table.bytes_of(state)
        steps = []
        for part, places in enumerate(fits):
            for place in np.flatnonzero(state[part] != places).tolist():
                moved = State(state.levels.copy(), state.widths.copy())
                moved[part][place] = places[place]
                freed = size - table.bytes_of(moved)
                steps.append((-freed if freed <= 0 else 0, (table.energy(moved) - energy) / max(freed, 1), len(steps), moved))
        state = min(steps)[3]
    return state
