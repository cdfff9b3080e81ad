"""The best price per byte for a limit: where a line through a choice above it and one below touches the hull of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcompress.joint.relaxation import Offered, Relaxation
from qcompress.joint.table import State, Table

__all__ = ["Line", "Point", "line", "steep"]

PRICES = 60
"""At most so many; ten are usual."""


@dataclass(frozen=True, eq=False)
class Point:
    """A choice, what it loses, and its bytes."""

    state: State
    energy: float
    bytes: int


@dataclass(frozen=True, eq=False)
class Line:
    """Its ends: `fits` keeps to the limit, `over` does not (None: the least energy of all fits).

    price  energy per byte;  value  the height at the limit: where the relaxation is exact, nothing offered that fits is below
    """

    fits: Point
    over: Point | None
    price: float
    value: float
    offered: Offered

    @property
    def ends(self) -> list[State]:
        """The choices at its ends."""
        return [self.fits.state, *([] if self.over is None else [self.over.state])]


def line(relaxation: Relaxation, most: int, starts: Sequence[State]) -> Line | None:
    """The line of a limit of `most` bytes; None where nothing that is offered fits. It begins at `starts` that are offered."""
    table, offered = relaxation.table, (relaxation.offered, relaxation.allowed)
    near = State(_nearest(offered[0], starts[0].levels), _nearest(offered[1], starts[0].widths))
    known = [_point(table, state) for state in starts if _holds(offered, state)]
    over = min((p for p in known if p.bytes > most), key=lambda p: p.energy, default=None)
    fits = min((p for p in known if p.bytes <= most), key=lambda p: p.energy, default=None)
    if over is None:
        over = _point(table, relaxation.solve(0.0, near))
        if over.bytes <= most:
            return Line(over, None, 0.0, over.energy, offered)
    if fits is None:
        fits = _point(table, relaxation.solve(steep(table), near))
        if fits.bytes > most:
            return None
    price = value = 0.0
    for _ in range(PRICES):
        price = max((fits.energy - over.energy) / (over.bytes - fits.bytes), 0.0)
        height = fits.energy + price * (fits.bytes - most)
        point = _point(table, relaxation.solve(price, fits.state))
        value = min(height, point.energy + price * (point.bytes - most))
        if price == 0.0 and point.bytes <= most:
            return Line(point, None, 0.0, point.energy, offered)
        if not value < height - table.tolerance:
            break
        fits, over = (point, over) if point.bytes <= most else (fits, point)
    return Line(fits, over, price, value, offered)


def steep(table: Table) -> float:
    """A price at which one byte is worth more than all energy."""
    return 1.0 + 2 * sum(float(np.ptp(entries)) for entries in (*table.energies, *table.losses) if len(entries))


def _point(table: Table, state: State) -> Point:
    return Point(state, table.energy(state), table.bytes_of(state))


def _holds(offered: Offered, state: State) -> bool:
    pairs = zip((*offered[0], *offered[1]), (*state.levels.tolist(), *state.widths.tolist()), strict=True)
    return all(place in own for own, place in pairs)


def _nearest(offered: Sequence[NDArray[np.int64]], places: NDArray[np.int64]) -> NDArray[np.int64]:
    """The offered places nearest to `places`."""
    return np.array([own[np.abs(own - place).argmin()] for own, place in zip(offered, places, strict=True)], np.int64)
