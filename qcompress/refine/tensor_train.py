"""A tensor train over the contested units that learns where good masks lie, and swaps at the incumbent beside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcompress.refine.contract import Energy, Measured, Proposer
from qcompress.refine.counter import CountedTrain
from qcompress.refine.swaps import flip_costs, keeps_floors, swapped, swapped_inside
from qcompress.selection import Selection

__all__ = ["TensorTrain"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class TensorTrain:
    """Samples of a tensor train, warm started, among swaps at the incumbent. Defaults as measured by the benchmarks.

    rank         of the train
    contested    so many units take part, those whose flip the surrogate finds cheapest; samples leave the others as they are
    flips        expected number of units in which a first sample differs from the start
    lr           step on the logarithms of the cores
    elite        number of best masks towards which P moves
    every        candidates told between two steps
    share        part of the candidates that is sampled; the rest are the incumbent with `swaps` units exchanged
    inside       whether the counts per group stay as they are (they are multiples of a block of channels, say)
    """

    rank: int = 3
    contested: int = 128
    flips: float = 4.0
    lr: float = 0.1
    elite: int = 10
    every: int = 16
    share: float = 0.1
    swaps: int = 1
    inside: bool = False

    def begin(self, start: Selection, energy: Energy | None, rng: np.random.Generator) -> Proposer:
        """A warm start: P has its mode at `start`."""
        return _Learner(self, start, energy, rng)


class _Learner:
    def __init__(self, settings: TensorTrain, start: Selection, energy: Energy | None, rng: np.random.Generator) -> None:
        self._settings, self._space, self._rng = settings, start.space, rng
        self._mask, self._value = start.x, -np.inf
        self._elite: list[tuple[float, NDArray[np.bool_]]] = []
        self._told = 0
        self._samples = np.empty((0, len(start.space)), bool)
        costs = np.zeros(len(start.space)) if energy is None else flip_costs(energy, start.x)
        self._units = _contested(costs, start.x, settings.contested)
        self._mutate = swapped_inside if settings.inside else swapped
        groups = start.space.group_of[self._units] if settings.inside else np.zeros(len(self._units), np.intp)
        self._lengths = np.bincount(groups, minlength=1).tolist()
        self._owner = groups  # of each contested unit: the segment of the train that counts it
        pruned = start.x[self._units]
        odds = _flip_odds(costs[self._units], pruned, settings.flips)
        self._logs = _warm_cores(pruned, odds, settings.rank, rng)
        self._train = _distribution(self._logs, self._counts(pruned), self._lengths)

    def _counts(self, mask: NDArray[np.bool_]) -> tuple[int, ...]:
        """Pruned units per segment, of a mask of the contested units."""
        return tuple(np.bincount(self._owner, weights=mask, minlength=len(self._lengths)).astype(int).tolist())

    def ask(self, count: int) -> NDArray[np.bool_]:
        sampled = int(self._rng.binomial(count, self._settings.share))
        swaps = np.full(count - sampled, self._settings.swaps)
        return np.concatenate((self._sample(sampled), self._mutate(self._space, self._mask, swaps, self._rng)))

    def tell(self, measured: Measured) -> None:
        for mask, value in zip(measured.masks[measured.whole], measured.values[measured.whole], strict=True):
            if value > self._value:
                self._follow(mask, float(value))
            self._elite.append((float(value), mask))
        self._elite = sorted(self._elite, key=lambda pair: -pair[0])[: self._settings.elite]
        self._told += len(measured.masks)
        if self._told >= self._settings.every and self._settings.share > 0:
            self._told = 0
            self._learn()

    def _sample(self, number: int) -> NDArray[np.bool_]:
        """Masks drawn from P for the contested units, in stock until P changes; the other units are the incumbent's."""
        if len(self._samples) < number:
            drawn = self._train.sample(max(number, 4 * self._settings.every), self._rng)
            self._samples = np.repeat(self._mask[None], len(drawn), axis=0)
            self._samples[:, self._units] = drawn
        masks, self._samples = self._samples[:number], self._samples[number:]
        return masks[keeps_floors(self._space, masks)]

    def _follow(self, mask: NDArray[np.bool_], value: float) -> None:
        """Takes a new incumbent, and the mode of P with it: the slices of the units that changed sides change places.

        Swaps reach every unit, so the number of contested units in the incumbent may be another one afterwards.
        """
        for place in np.flatnonzero((mask != self._mask)[self._units]):
            self._logs[place] = self._logs[place][:, ::-1, :].copy()
        self._mask, self._value = mask, value
        self._train = _distribution(self._logs, self._counts(mask[self._units]), self._lengths)
        self._samples = self._samples[:0]

    def _learn(self) -> None:
        """One step up the elite's log-likelihood, normaliser included, on the logarithms of the cores: they stay positive.

        P is for the incumbent's number of contested units; it learns from those of the elite that share it.
        """
        elite = [mask[self._units] for _, mask in self._elite]
        masks = np.array([mask for mask in elite if self._counts(mask) == self._train.counts])
        slopes = self._train.gradient(masks, np.full(len(masks), 1 / len(masks)))
        for log, slope, core in zip(self._logs, slopes, self._train.cores, strict=True):
            log += self._settings.lr * slope * core  # d/d log G = G d/dG
        self._train = _distribution(self._logs, self._train.counts, self._lengths)
        self._samples = self._samples[:0]


def _contested(costs: Array, mask: NDArray[np.bool_], most: int) -> NDArray[np.intp]:
    """Places of the units nearest to changing sides, as many pruned as kept: the smallest costs of coming back or going."""
    sides = (np.flatnonzero(mask), np.flatnonzero(~mask))
    return np.sort(np.concatenate([side[np.argsort(costs[side], kind="stable")[: most // 2]] for side in sides]))


def _flip_odds(costs: Array, pruned: NDArray[np.bool_], flips: float) -> Array:
    """(m,) log odds of flipping: lower where the surrogate says that a flip costs more, `flips` flips expected in all."""
    odds = np.zeros(len(costs))
    for side in (pruned, ~pruned):
        if side.any():
            odds[side] = (costs[side].mean() - costs[side]) / (costs[side].std() or 1.0)
    low, high = -40.0, 40.0
    for _ in range(60):  # bisection: the expected number rises with the shift
        middle = (low + high) / 2
        few = np.sum(1 / (1 + np.exp(-(odds + middle)))) < flips
        low, high = (middle, high) if few else (low, middle)
    return odds + low


def _warm_cores(pruned: NDArray[np.bool_], odds: Array, rank: int, rng: np.random.Generator) -> list[Array]:
    """Logarithms of cores whose tensor is the product of the units' flip odds, but for a little noise that rank can use."""
    flip, stay = -np.logaddexp(0, -odds), -np.logaddexp(0, odds)
    levels = np.where(pruned[:, None], np.stack((flip, stay), 1), np.stack((stay, flip), 1))  # (m, 2)
    ranks = [1, *[rank] * (len(pruned) - 1), 1]
    return [
        level[None, :, None] - np.log(right) + rng.normal(0, 0.1, (left, 2, right))
        for level, left, right in zip(levels, ranks, ranks[1:], strict=False)
    ]


def _distribution(logs: list[Array], counts: tuple[int, ...], lengths: list[int]) -> CountedTrain:
    """P of the cores exp(`logs`), scaled so that all entries together sum to about 1: products over many cores stay finite."""
    cores, right = [], np.ones(1)
    for log in reversed(logs):
        core = np.exp(log)
        sums = core.sum(axis=1) @ right
        cores.append(core / sums.max())
        right = sums / sums.max()
    return CountedTrain(cores[::-1], counts, lengths)
