"""How close what a file computes has to be to what PyTorch computes, and how close it is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["LEAST_DB", "PARITY_GATE", "Difference", "Parity"]

PARITY_GATE = 1e-5  # of the output's largest absolute value, float32
LEAST_DB = {"float16": 80.0}
"""Ratio of the output's largest value to the root mean square difference, where weights are stored in fewer bits."""


@dataclass(frozen=True)
class Parity:
    """Largest absolute difference from the reference over all images; `rel` is it over the reference's largest output.

    `db` is 20 log10 of the reference's largest output over the root mean square difference, None where there is no difference
    (or none was computed). What decides is `least_db` where it is given, else `gate`, the most that `rel` may be.
    """

    max_abs_diff: float
    rel: float
    gate: float = PARITY_GATE
    db: float | None = None
    least_db: float | None = None

    @property
    def passed(self) -> bool:
        """Whether the difference is within the gate; NaN is not."""
        if self.least_db is None or self.max_abs_diff == 0:
            return self.rel <= self.gate
        return self.db is not None and self.db >= self.least_db

    def __str__(self) -> str:
        """For people, with the gate."""
        if self.least_db is None or self.db is None:
            return f"largest difference {self.rel:.1e} of the largest output (at most {self.gate:.0e})"
        return f"{self.db:.0f} dB (at least {self.least_db:.0f})"


class Difference:
    """Gathers the difference of two networks, output by output."""

    def __init__(self) -> None:
        self._difference, self._largest, self._squares, self._count = 0.0, 0.0, 0.0, 0

    def add(self, ours: NDArray[np.floating], theirs: NDArray[np.floating]) -> None:
        """Take in two outputs of one shape for the same image; `theirs` are the reference's."""
        apart = ours.astype(np.float64) - theirs
        self._difference = float(np.maximum(self._difference, np.abs(apart).max(initial=0.0)))  # which hands NaN on
        self._largest = float(np.maximum(self._largest, np.abs(theirs).max(initial=0.0)))
        self._squares += float(np.square(apart).sum())
        self._count += apart.size

    def parity(self, *, gate: float = PARITY_GATE, least_db: float | None = None) -> Parity:
        """Of all outputs so far."""
        if not self._largest:
            return Parity(self._difference, 0.0 if self._difference == 0 else math.inf, gate, None, least_db)
        db = None
        if self._squares > 0 and math.isfinite(self._squares):
            db = 20 * math.log10(self._largest / math.sqrt(self._squares / self._count))
        return Parity(self._difference, self._difference / self._largest, gate, db, least_db)
