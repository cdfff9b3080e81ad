"""Random hill climbing: one random swap at a time, kept when it helps. The rival that every refinement must beat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcompress.refine.contract import Energy, Measured, Proposer
from qcompress.refine.swaps import swapped
from qcompress.selection import Selection, UnitSpace

__all__ = ["HillClimbing"]


@dataclass(frozen=True)
class HillClimbing:
    """`swaps` units are exchanged per candidate; the first improvement is taken."""

    swaps: int = 1

    def begin(self, start: Selection, energy: Energy | None, rng: np.random.Generator) -> Proposer:
        """Knows the start only."""
        del energy
        return _Climber(start.space, self.swaps, rng, start.x)


@dataclass
class _Climber:
    space: UnitSpace
    swaps: int
    rng: np.random.Generator
    mask: NDArray[np.bool_]
    value: float = -np.inf

    def ask(self, count: int) -> NDArray[np.bool_]:
        return swapped(self.space, self.mask, np.full(count, self.swaps), self.rng)

    def tell(self, measured: Measured) -> None:
        for mask, value, whole in zip(measured.masks, measured.values, measured.whole, strict=True):
            if whole and value > self.value:
                self.mask, self.value = mask, float(value)
