"""Blocks of a model, and the part of a block that a chip of limited size is asked about: its contested units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qcompress.solvers.components import connected_parts

if TYPE_CHECKING:
    from dimod import BinaryQuadraticModel

__all__ = ["Core", "cores", "settled"]


@dataclass(frozen=True, eq=False)
class Core:
    """What is free of one block of m variables; the others stay at `start`.

    places     (m,) of the block's variables in the model
    start      (m,) 0/1: a local minimum of the block under single flips
    free       (f,) places inside the block, ascending
    linear     (f,), couplings (f, f) symmetric, zero diagonal: the block's energy over its free variables, up to a constant
    """

    places: NDArray[np.intp]
    start: NDArray[np.int8]
    free: NDArray[np.intp]
    linear: NDArray[np.float64]
    couplings: NDArray[np.float64]

    @property
    def whole(self) -> bool:
        """Whether nothing of the block is fixed."""
        return len(self.free) == len(self.places)

    def complete(self, rows: NDArray[np.int8]) -> NDArray[np.int8]:
        """(K, m) states of the block from rows (K, f) of its free variables."""
        states = np.tile(self.start, (len(rows), 1))
        states[:, self.free] = rows
        return states


def cores(bqm: BinaryQuadraticModel, limit: int) -> tuple[Core, ...]:
    """One per connected part of a BINARY model, in the order of their first variables, with at most `limit` variables free.

    Free are those nearest to a tie, |energy of the flip| smallest, at the local minimum that steepest descent finds from the
    empty state: most of what separates that from the best solution lies there. A variable without couplings is decided by its
    sign: its core is empty.
    """
    linear, couplings, parts = connected_parts(bqm)
    return tuple(_core(places, linear[places], couplings[places][:, places].toarray(), limit) for places in parts)


def _core(places: NDArray[np.intp], linear: NDArray[np.float64], couplings: NDArray[np.float64], limit: int) -> Core:
    start = settled(linear, couplings)
    field = linear + couplings @ start
    nearest = np.argsort(np.abs(field), kind="stable")[: limit if len(places) > 1 else 0]
    free = np.sort(nearest)
    fixed = start.copy()
    fixed[free] = 0
    rest = linear + couplings @ fixed
    return Core(places, start, free, rest[free], couplings[np.ix_(free, free)])


def settled(linear: NDArray[np.float64], couplings: NDArray[np.float64]) -> NDArray[np.int8]:
    """(m,) the local minimum that the steepest single flips reach from the empty state."""
    x = np.zeros(len(linear), np.int8)
    field = linear.copy()
    tolerance = 1e-12 * float(np.abs(linear).sum() + np.abs(couplings).sum())
    while len(x):
        change = np.where(x == 1, -field, field)
        unit = int(change.argmin())
        if not change[unit] < -tolerance:
            break
        x[unit] ^= 1
        field += (2.0 * x[unit] - 1.0) * couplings[unit]
    return x
