"""PROTES as published (Batsheva et al., NeurIPS 2023), a rival: cold start, all units, the best of each batch.

Its tensor knows nothing of counts, so two things differ from the paper: masks are drawn with the counter (every one has the
exact count; there is no repair), and the likelihood is that of the distribution which was sampled.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import teneva  # type: ignore[import-untyped]
from numpy.typing import NDArray

from qcompress.refine.contract import Energy, Measured, Proposer
from qcompress.refine.counter import CountedTrain
from qcompress.refine.swaps import keeps_floors
from qcompress.selection import Selection

__all__ = ["Protes"]

_SMALLEST = 1e-6  # raw cores are kept above it after every step: probabilities need positive entries


@dataclass(frozen=True)
class Protes:
    """K `samples` a round, its `elite` best, one step of size `lr` (Adam, as in its authors' code) on raw cores."""

    rank: int = 5
    samples: int = 100
    elite: int = 10
    lr: float = 0.05

    def begin(self, start: Selection, energy: Energy | None, rng: np.random.Generator) -> Proposer:
        """Knows the space and the count only."""
        del energy
        return _Sampler(self, start, rng)


class _Sampler:
    def __init__(self, settings: Protes, start: Selection, rng: np.random.Generator) -> None:
        self._settings, self._space, self._rng, self._count = settings, start.space, rng, len(start)
        shape = [2] * len(start.space)
        self._cores: list[NDArray[np.float64]] = teneva.rand(shape, settings.rank, a=_SMALLEST, b=1.0, seed=rng)
        self._mean = [np.zeros(core.shape) for core in self._cores]
        self._square = [np.zeros(core.shape) for core in self._cores]
        self._steps = 0
        self._round: list[tuple[float, NDArray[np.bool_]]] = []
        self._refresh()

    def _refresh(self) -> None:
        self._rescale()
        self._train = CountedTrain(self._cores, [self._count])
        self._stock = self._train.sample(self._settings.samples, self._rng)

    def _rescale(self) -> None:
        """Keeps the sum of all entries near 1; P does not change."""
        right = np.ones(1)
        for j in reversed(range(len(self._cores))):
            sums = self._cores[j].sum(axis=1) @ right
            self._cores[j] = self._cores[j] / sums.max()
            right = sums / sums.max()

    def ask(self, count: int) -> NDArray[np.bool_]:
        if len(self._stock) < count:
            self._stock = np.concatenate((self._stock, self._train.sample(self._settings.samples, self._rng)))
        masks, self._stock = self._stock[:count], self._stock[count:]
        return masks[keeps_floors(self._space, masks)]

    def tell(self, measured: Measured) -> None:
        self._round.extend(zip(measured.values.tolist(), measured.masks, strict=True))
        if len(self._round) >= self._settings.samples:
            best = sorted(self._round, key=lambda pair: -pair[0])[: self._settings.elite]
            self._step(np.array([mask for _, mask in best]))
            self._round = []
            self._refresh()

    def _step(self, masks: NDArray[np.bool_]) -> None:
        """One step of Adam up the mean log-likelihood of the elite."""
        self._steps += 1
        slopes = self._train.gradient(masks, np.full(len(masks), 1 / len(masks)))
        for j, slope in enumerate(slopes):
            self._mean[j] = 0.9 * self._mean[j] + 0.1 * slope
            self._square[j] = 0.999 * self._square[j] + 0.001 * slope**2
            mean, square = self._mean[j] / (1 - 0.9**self._steps), self._square[j] / (1 - 0.999**self._steps)
            self._cores[j] = np.maximum(self._cores[j] + self._settings.lr * mean / (np.sqrt(square) + 1e-8), _SMALLEST)
