"""What is known about the units before choosing: one frozen value, plain arrays, no torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcompress.errors import InputError
from qcompress.selection import UnitSpace

__all__ = ["Scores"]


@dataclass(frozen=True)
class Scores:
    """Per-unit importance and per-group similarity, in the order of `space`.

    magnitude   (n,) >= 0: a_i, the mean absolute weight of the unit's producer slices
    taylor      (n,) >= 0: mean over samples of |dL/dm_i|, m_i the mask of unit i at 1, L the loss in the metric's unit (dB)
    fisher      (n,) >= 0: half the mean over samples of (dL/dm_i)^2
    similarity  one (m, m) symmetric array per group, in -1..1: centred cosine of the units' feature maps; diagonal 1
    gradients   (N, n) dL/dm_i of each of N samples, signed, N >= 1; None where they were not kept
    """

    space: UnitSpace
    magnitude: NDArray[np.float64]
    taylor: NDArray[np.float64]
    fisher: NDArray[np.float64]
    similarity: tuple[NDArray[np.float64], ...]
    gradients: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        n = len(self.space)
        for name in ("magnitude", "taylor", "fisher"):
            array = getattr(self, name)
            if array.shape != (n,):
                raise ValueError(f"{name} must be a vector of {n} entries, got shape {array.shape}")
            if not np.isfinite(array).all():
                raise InputError(
                    f"the {name} scores are NaN or infinite: the network's outputs or gradients are, on calibration images",
                    "are these the images that it was trained for, and its weights those of a finished training?",
                )
        if [s.shape for s in self.similarity] != [(size, size) for size in self.space.sizes]:
            raise ValueError("similarity must hold one square array per group")
        if self.gradients is not None and (
            self.gradients.ndim != 2
            or self.gradients.shape[1] != n
            or not len(self.gradients)
            or not np.isfinite(self.gradients).all()
        ):
            raise ValueError(f"gradients must be finite rows of {n} entries, got shape {self.gradients.shape}")
