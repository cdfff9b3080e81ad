"""Random hill climbing: one random swap at a time, kept when it helps. The rival that every refinement must beat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcompress.refine.contract import Energy, Measured, Proposer
from qcompress.refine.swaps import Mutate, swapped, swapped_inside
from qcompress.selection import Selection, UnitSpace

__all__ = ["HillClimbing"]


@dataclass(frozen=True)
class HillClimbing:
    """`swaps` units are exchanged per candidate, `inside` groups only if so set; the first improvement is taken."""

    swaps: int = 1
    inside: bool = False

    def begin(self, start: Selection, energy: Energy | None, rng: np.random.Generator) -> Proposer:
        """Knows the start only."""
        del energy
        return _Climber(start.space, self.swaps, rng, swapped_inside if self.inside else swapped, start.x)


@dataclass
class _Climber:
    space: UnitSpace
    swaps: int
    rng: np.random.Generator
    mutate: Mutate
    mask: NDArray[np.bool_]
    value: float = -np.inf

    def ask(self, count: int) -> NDArray[np.bool_]:
        return self.mutate(self.space, self.mask, np.full(count, self.swaps), self.rng)

    def tell(self, measured: Measured) -> None:
        for mask, value, whole in zip(measured.masks, measured.values, measured.whole, strict=True):
            if whole and value > self.value:
                self.mask, self.value = mask, float(value)
