"""How many units go in which group, and how wide every layer is, for a file of at most so many bytes.

A price per byte takes the place of the limit (Everett, 1963), and the choice at a price is found by elimination. The best price
leaves a choice that fits, one that is too large, and a bound; exact exchanges close what lies between. Where that leaves much,
what is offered is split in two where the two choices differ, and looked at again: branch and bound.
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
from qcompress.joint.lines import Line, line, steep
from qcompress.joint.relaxation import Offered, Relaxation, everything
from qcompress.joint.table import State, Table

__all__ = ["ENOUGH", "FEW_SPLITS", "SPLITS", "Allocation", "allocate_bytes", "whole_line"]

LABELS = 65
"""Of a group that offers more counts, so many evenly spaced ones are tried first, then those between the best."""

SPLITS, FEW_SPLITS = 24, 4
"""At most so often what is offered is split in two; the few where an allocation is one of many."""

ENOUGH = 1e-3
"""Of the energy: where the bound is as near as that, nothing is split any more."""


@dataclass(frozen=True, eq=False)
class Allocation:
    """A choice that fits, what it loses and takes, and the energy that none that fits is below (None: not known)."""

    state: State
    energy: float
    bytes: int
    bound: float | None


def allocate_bytes(table: Table, most: int, *, splits: int = SPLITS) -> Allocation:
    """The choice of least energy found whose file has at most `most` bytes. No single move that lowers the energy fits besides.

    Raises UsageError where no choice fits; the message has the smallest size.
    """
    root, whole = whole_line(table, most, [table.start])
    best, bound = _closed(table, root, most), root.value
    if whole and splits:
        best, bound = _branched(table, root, best, most, splits)
    energy = table.energy(best)
    return Allocation(best, energy, table.bytes_of(best), min(bound, energy) if whole else None)


def whole_line(table: Table, most: int, starts: Sequence[State]) -> tuple[Line, bool]:
    """The line over all choices, and whether its value is a bound.

    Of groups that offer many counts some are looked at first, then those between the best. Raises UsageError.
    """
    strides = [max(1, -(-(len(offer) - 1) // (LABELS - 1))) for offer in table.offers]
    widths = everything(table)[1]
    offered = tuple(_places(len(offer), [], stride) for offer, stride in zip(table.offers, strides, strict=True))
    relaxation = Relaxation(table, (offered, widths))
    whole, found = relaxation.exact and max(strides, default=1) == 1, line(relaxation, most, starts)
    if found is None:
        least = relaxation.solve(steep(table), table.start)
        raise UsageError(
            f"a file of {most:,} bytes cannot be reached: the smallest found has {table.bytes_of(least):,}",
            "ask for a larger file, or allow narrower widths with --bits",
        )
    while max(strides, default=1) > 1:
        strides = [-(-stride // 2) for stride in strides]
        ends = [end.levels.tolist() for end in found.ends]
        near = zip(table.offers, zip(*ends, strict=True), strides, strict=True)
        offered = tuple(_places(len(offer), own, stride) for offer, own, stride in near)
        finer = line(Relaxation(table, (offered, widths)), most, found.ends)
        found = found if finer is None or finer.fits.energy > found.fits.energy else finer
    return found, whole


def _places(length: int, centres: Sequence[int], stride: int) -> NDArray[np.int64]:
    """Places of an offer, `stride` apart: all over it, or around `centres`; both ends are among them."""
    if stride == 1 and (length <= LABELS or not centres):
        return np.arange(length)
    steps = stride * np.arange(-(LABELS // 4), LABELS // 4 + 1)
    near = [np.arange(0, length, stride)] if not centres else [centre + steps for centre in centres]
    return np.unique(np.clip(np.concatenate((*near, [0, length - 1])), 0, length - 1)).astype(np.int64)


def _closed(table: Table, root: Line, most: int) -> State:
    """The best of exchanges from the line's end that fits, and from its other end brought to fit."""
    starts = [root.fits.state]
    if root.over is not None:
        starts.append(_between(table, root.over.state, root.fits.state, most))
    return min((improve(table, start, Limit(most), root.price) for start in starts), key=table.energy)


def _branched(table: Table, root: Line, best: State, most: int, splits: int) -> tuple[State, float]:
    """The best choice after what is offered was split again and again, the part of the least bound first, and the bound."""
    energy, number = table.energy(best), itertools.count(1)
    heap = [(root.value, 0, root)]
    done = np.inf  # the least bound of what is not split any more
    for _ in range(splits):
        if not heap or min(heap[0][0], done) >= energy - ENOUGH * abs(energy):
            break
        value, _, parent = heapq.heappop(heap)
        parts = _split(table, parent)
        if not parts:
            done = min(done, value)
        for part in parts:
            found = line(Relaxation(table, part), most, parent.ends)
            if found is None or found.value >= energy - table.tolerance:
                continue
            state = improve(table, found.fits.state, Limit(most), found.price)
            if table.energy(state) < energy:
                best, energy = state, table.energy(state)
            heapq.heappush(heap, (max(found.value, value), next(number), found))
    return best, min(done, heap[0][0] if heap else np.inf, energy)


def _split(table: Table, parent: Line) -> list[Offered]:
    """What the line was drawn over in two: at the group or the layer of the most bytes in which its ends differ."""
    if parent.over is None:
        return []
    steps: list[tuple[int, int, int, int]] = []
    for part, (fits, over) in enumerate(zip(parent.fits.state, parent.over.state, strict=True)):
        for place in np.flatnonzero(fits != over).tolist():
            far = abs(table.bytes_of(_with(parent.fits.state, part, place, int(over[place]))) - parent.fits.bytes)
            steps.append((far, part, place, int(min(fits[place], over[place]))))
    _, part, place, last = max(steps)
    own, halves = parent.offered[part][place], []
    for half in (own[own <= last], own[own > last]):
        offered = (list(parent.offered[0]), list(parent.offered[1]))
        offered[part][place] = half
        halves.append((tuple(offered[0]), tuple(offered[1])))
    return halves


def _between(table: Table, over: State, fits: State, most: int) -> State:
    """From the choice that does not fit towards the one that does, by the moves of least energy per byte, until it fits."""
    state = over
    while (size := table.bytes_of(state)) > most:
        energy = table.energy(state)
        steps: list[tuple[int, float, int, State]] = []
        for part, places in enumerate(fits):
            for place in np.flatnonzero(state[part] != places).tolist():
                moved = _with(state, part, place, int(places[place]))
                freed = size - table.bytes_of(moved)
                steps.append((max(-freed, 0), (table.energy(moved) - energy) / max(freed, 1), len(steps), moved))
        state = min(steps)[3]
    return state


def _with(state: State, part: int, place: int, value: int) -> State:
    """`state` with one of its entries set."""
    changed = State(state.levels.copy(), state.widths.copy())
    changed[part][place] = value
    return changed
