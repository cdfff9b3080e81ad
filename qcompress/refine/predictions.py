"""What the surrogate said of the candidates that were measured, beside what they turned out to be worth."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qcompress.refine.contract import Energy, Measured

__all__ = ["KEPT", "Predictions"]

KEPT = 2000  # pairs of each kind: more would hardly change a correlation, but fill the report


@dataclass
class Predictions:
    """Pairs of energy and value, see `RefineResult`. Nothing is kept without a surrogate."""

    surrogate: Energy | None
    measured: list[tuple[float, float]] = field(default_factory=list)
    steps: list[tuple[float, float]] = field(default_factory=list)

    def book(self, found: Measured, best: NDArray[np.bool_], value: float) -> None:
        """Candidates, and the mask (n,) and value of the best before them; the value is nan before anything was measured."""
        if self.surrogate is None or len(self.steps) >= KEPT:
            return
        energies = self.surrogate(np.vstack([found.masks, best]))
        energies, before = energies[:-1], energies[-1]
        self.measured += zip(energies[found.whole].tolist(), found.values[found.whole].tolist(), strict=True)
        if not np.isnan(value):
            self.steps += zip((energies - before).tolist(), (found.values - value).tolist(), strict=True)
        del self.measured[KEPT:], self.steps[KEPT:]
