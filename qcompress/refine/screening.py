"""Screening: several candidates are asked for, the surrogate says which one is measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcompress.refine.contract import Energy

__all__ = ["Screening"]


@dataclass(frozen=True)
class Screening:
    """Of `factor` candidates the one of lowest energy is measured.

    The start is the surrogate's own optimum: screening hard prefers what changes little, so a mild factor wins.
    """

    factor: int = 4

    def __post_init__(self) -> None:
        if self.factor < 1:
            raise ValueError(f"factor must be 1 or more, got {self.factor}")

    def best(self, energy: Energy, masks: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
        """The `count` masks (of K, n) with the lowest energy, best first."""
        if len(masks) <= count:
            return masks
        return masks[np.argsort(energy(masks), kind="stable")[:count]]
