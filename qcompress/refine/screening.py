"""Screening: many candidates are asked for, the most promising are measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcompress.refine.belief import Belief
from qcompress.refine.contract import Energy, Measured

__all__ = ["Screen", "Screening"]


@dataclass(frozen=True)
class Screening:
    """Of `factor` candidates asked for, one is measured: the one with the best outlook.

    The outlook is the surrogate's energy or, where `learn`, the expected gain by everything measured so far plus `boldness`
    standard deviations.
    """

    factor: int = 50
    learn: bool = True
    boldness: float = 0.5


class Screen:
    """Orders candidates by their outlook."""

    def __init__(self, settings: Screening, energy: Energy | None) -> None:
        self.factor = settings.factor
        self._energy, self._boldness = energy, settings.boldness
        self._belief = Belief(energy) if settings.learn else None

    def tell(self, measured: Measured) -> None:
        """What was measured."""
        if self._belief:
            self._belief.tell(measured)

    def best(self, masks: NDArray[np.bool_], count: int) -> NDArray[np.intp]:
        """(count,) places of the most promising masks, best first."""
        return np.argsort(-self._outlook(masks), kind="stable")[:count]

    def outlook(self, masks: NDArray[np.bool_]) -> NDArray[np.float64]:
        """(K,) expected gain, or the negative energy of the surrogate while little has been measured."""
        if self._belief and self._belief.size >= 10:
            return self._belief.predict(masks)[0]
        return np.zeros(len(masks)) if self._energy is None else -self._energy(masks)

    def _outlook(self, masks: NDArray[np.bool_]) -> NDArray[np.float64]:
        if self._belief and self._belief.size >= 10:
            gain, deviation = self._belief.predict(masks)
            return gain + self._boldness * deviation
        return self.outlook(masks)
