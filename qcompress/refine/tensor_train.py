"""A tensor train over the contested units that learns where good masks lie, and mutants of the incumbent that follow it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcompress.refine.contract import Measured, Outlook, Proposer
from qcompress.refine.counter import CountedTrain
from qcompress.refine.swaps import flip_gains, keeps_floors, swapped
from qcompress.selection import Selection

__all__ = ["TensorTrain"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class TensorTrain:
    """Settings.

    rank         of the train
    contested    so many units take part, those whose flip the surrogate finds cheapest; samples leave the others alone
    flips        expected number of units in which a first sample differs from the start
    lr           step on the logarithms of the cores
    elite        number of best masks towards which P moves
    share        part of a batch that is sampled; the rest are mutants of the incumbent
    swaps        mutants exchange 1 to so many units
    """

    rank: int = 2
    contested: int = 128
    flips: float = 6.0
    lr: float = 0.1
    elite: int = 10
    share: float = 0.5
    swaps: int = 3
    guided: str = "outlook"
    heat: float = 0.5

    def begin(self, start: Selection, outlook: Outlook | None, rng: np.random.Generator) -> Proposer:
        """A warm start: P has its mode at `start`."""
        return _Learner(self, start, outlook, rng)


class _Learner:
    def __init__(self, settings: TensorTrain, start: Selection, outlook: Outlook | None, rng: np.random.Generator) -> None:
        self._settings, self._space, self._outlook, self._rng = settings, start.space, outlook, rng
        self._mask = start.x
        self._value = -np.inf
        self._elite: list[tuple[float, NDArray[np.bool_]]] = []
        costs = np.zeros(len(start.space)) if outlook is None else -flip_gains(outlook, start.x)
        self._units = self._contested(costs)
        odds = self._odds(costs[self._units])
        self._logs = self._warm_cores(start.x[self._units], odds)
        self._fresh()

    def _contested(self, costs: Array) -> NDArray[np.intp]:
        """Places of the units nearest to changing sides, half of them pruned now: smallest cost of coming back or going."""
        half = self._settings.contested // 2
        sides = [np.flatnonzero(self._mask), np.flatnonzero(~self._mask)]
        nearest = [side[np.argsort(costs[side], kind="stable")[:half]] for side in sides]
        return np.sort(np.concatenate(nearest))

    def _odds(self, costs: Array) -> Array:
        """(m,) log odds of flipping, `flips` of them expected, lower where the surrogate says that a flip costs more."""
        pruned = self._mask[self._units]
        odds = np.zeros(len(costs))
        for side in (pruned, ~pruned):
            if side.any():
                spread = costs[side].std() or 1.0
                odds[side] = -(costs[side] - costs[side].mean()) / spread
        low, high = -40.0, 40.0
        for _ in range(60):  # bisection for the shift at which the expected number of flips is met
            middle = (low + high) / 2
            few = np.sum(1 / (1 + np.exp(-(odds + middle)))) < self._settings.flips
            low, high = (middle, high) if few else (low, middle)
        return odds + low

    def _warm_cores(self, pruned: NDArray[np.bool_], odds: Array) -> list[Array]:
        """Logarithms of cores whose tensor is the product of the units' flip odds, up to a little noise that rank can use."""
        flip, stay = -np.logaddexp(0, -odds), -np.logaddexp(0, odds)
        rank, last = self._settings.rank, len(odds) - 1
        cores = []
        for j, there in enumerate(pruned):
            shape = (1 if j == 0 else rank, 2, 1 if j == last else rank)
            level = np.array([flip[j], stay[j]] if there else [stay[j], flip[j]])
            cores.append(level[None, :, None] - np.log(shape[2]) + self._rng.normal(0, 0.1, shape))
        return cores

    def _fresh(self) -> None:
        """The distribution of the present cores, scaled so that the sum over all masks is about 1."""
        cores = []
        right = np.ones(1)
        for log in reversed(self._logs):
            core = np.exp(log)
            scale = (core.sum(axis=1) @ right).max()
            cores.append(core / scale)
            right = (core / scale).sum(axis=1) @ right
        self._train = CountedTrain(cores[::-1], int(self._mask[self._units].sum()))

    def ask(self, count: int) -> NDArray[np.bool_]:
        sampled = round(self._settings.share * count)
        weights = {"train": self._flip_weights, "outlook": self._gains, "": lambda: None}[self._settings.guided]()
        swaps = self._rng.integers(1, self._settings.swaps, count - sampled, endpoint=True)
        return np.concatenate((self._samples(sampled), swapped(self._space, self._mask, swaps, self._rng, weights)))

    def _samples(self, number: int) -> NDArray[np.bool_]:
        masks = np.repeat(self._mask[None], number, axis=0)
        if number:
            masks[:, self._units] = self._train.sample(number, self._rng)
        return masks[keeps_floors(self._space, masks)]

    def _gains(self):
        gains = flip_gains(self._outlook, self._mask)
        for side in (self._mask, ~self._mask):
            near = np.sort(gains[side])[::-1]
            gains[side] = (gains[side] - near[0]) / ((near[: len(near) // 2].std() or 1) * self._settings.heat)
        return gains

    def _flip_weights(self) -> Array:
        """(n,) log odds of flipping each unit of the incumbent: the train's for the contested, the lowest of it for others."""
        share = np.clip(self._train.marginals(), 1e-6, 1 - 1e-6)
        odds = np.log(share) - np.log1p(-share)
        odds[self._mask[self._units]] *= -1
        weights = np.full(len(self._space), odds.min())
        weights[self._units] = odds
        return np.asarray(weights / 2)

    def tell(self, measured: Measured) -> None:
        for mask, value, whole in zip(measured.masks, measured.values, measured.whole, strict=True):
            if whole and value > self._value:
                self._mask, self._value = mask, float(value)
            if whole:
                self._elite.append((float(value), mask))
        self._elite = sorted(self._elite, key=lambda pair: -pair[0])[: self._settings.elite]
        if self._settings.share or self._settings.guided == "train":
            self._learn()

    def _learn(self) -> None:
        """One step up the log-likelihood of the elite, on the logarithms of the cores (so they stay positive)."""
        count = self._mask[self._units].sum()
        masks = np.array([mask[self._units] for _, mask in self._elite])
        masks = masks[masks.sum(axis=1) == count]
        if self._train.count != count:
            self._fresh()
        slopes = self._train.gradient(masks, np.full(len(masks), 1 / len(masks)))
        for log, slope, core in zip(self._logs, slopes, self._train.cores, strict=True):
            log += self._settings.lr * slope * core
        self._fresh()
