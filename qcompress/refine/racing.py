"""Measuring candidates at a price: the budget is counted in images, and a race drops who is clearly behind."""

from __future__ import annotations

import itertools
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcompress.errors import InputError
from qcompress.refine.contract import Evaluate, Measured
from qcompress.selection import Selection

__all__ = ["Meter", "Racing"]


@dataclass(frozen=True)
class Racing:
    """After each share in `stops` of the images a candidate goes on only if it may still beat the incumbent.

    With m images seen it is dropped where its mean paired difference to the incumbent plus `patience` standard errors is
    negative. The deviation between images is hardly known from two or three of them: it is taken together with what is
    usual for a difference of that size, as if that had been seen on `prior` images more. A stop needs `least` images (2 or
    more); with fewer in all there is no race.
    """

    stops: tuple[float, ...] = (0.125, 0.25, 0.5)
    patience: float = 1.0
    least: int = 2
    prior: float = 2.0

    def __post_init__(self) -> None:
        if self.least < 2:
            raise ValueError(f"least must be 2 or more, got {self.least}: a deviation needs two images")
        if not all(0 < stop < 1 for stop in self.stops) or list(self.stops) != sorted(set(self.stops)):
            raise ValueError(f"stops must be ascending shares between 0 and 1, got {self.stops}")

    def parts(self, images: int) -> tuple[range, ...]:
        """The images between one stop and the next."""
        edges = sorted({max(self.least, round(stop * images)) for stop in self.stops} - {images})
        edges = [0, *(edge for edge in edges if edge < images), images]
        return tuple(range(first, last) for first, last in itertools.pairwise(edges))

    def survives(self, difference: NDArray[np.float64], usual: float) -> NDArray[np.bool_]:
        """(K,) whether each candidate goes on, from its (K, m) paired differences to the incumbent in dB.

        `usual` is the ratio of the images' deviation to the size of the mean that other candidates had.
        """
        mean, count = difference.mean(axis=1), difference.shape[1]
        own = difference.var(axis=1, ddof=1) * (count - 1)
        variance = (own + self.prior * (usual * mean) ** 2) / (count - 1 + self.prior)
        survives: NDArray[np.bool_] = mean + self.patience * np.sqrt(variance / count) >= 0
        return survives


class Meter:
    """Calls the evaluator and counts: never more than `evaluations` times all images, where that is not None."""

    def __init__(self, evaluate: Evaluate, evaluations: int | None, racing: Racing | None) -> None:
        self._evaluate = evaluate
        self._images = evaluate.images
        self._budget = sys.maxsize if evaluations is None else evaluations * self._images
        self._parts = racing.parts(self._images) if racing else (range(self._images),)
        self._racing = racing
        self._spent = 0
        self._ratios: deque[float] = deque(maxlen=200)
        self.leader: NDArray[np.float64] | None = None  # (images,) what candidates race against: the incumbent's values

    @property
    def evaluations(self) -> float:
        """What was spent, in units of all images."""
        return self._spent / self._images

    @property
    def affordable(self) -> int:
        """Number of candidates that can be measured on every image with what is left."""
        return (self._budget - self._spent) // self._images

    def measure(self, selections: Sequence[Selection]) -> tuple[Measured, NDArray[np.float64]]:
        """What the candidates are worth, and (K, images) their values, nan where not seen. At most `affordable` of them."""
        assert len(selections) <= self.affordable
        seen = np.full((len(selections), self._images), np.nan)
        alive = np.arange(len(selections))
        for part in self._parts:
            seen[alive, part.start : part.stop] = self._call([selections[k] for k in alive.tolist()], part)
            if self._racing and self.leader is not None and part.stop < self._images:
                difference = seen[alive, : part.stop] - self.leader[: part.stop]
                alive = alive[self._racing.survives(difference, self._usual(difference))]
            if not alive.size:
                break
        whole = np.zeros(len(selections), bool)
        whole[alive] = True
        return Measured(np.stack([s.x for s in selections]), self._worth(seen, whole), whole), seen

    def _call(self, selections: Sequence[Selection], part: range) -> NDArray[np.float64]:
        self._spent += len(selections) * len(part)  # before the call: an interrupted one has cost its time too
        values = self._evaluate(selections, part)
        assert values.shape == (len(selections), len(part)), f"the evaluator returned {values.shape}"
        if not np.isfinite(values).all():
            raise InputError("the metric of a candidate is not finite", "look for images whose metric is infinite or nan")
        return values

    def _usual(self, difference: NDArray[np.float64]) -> float:
        """The median, over the latest candidates, of the ratio of deviation to size of the paired differences."""
        size = np.maximum(np.abs(difference.mean(axis=1)), 1e-12)
        self._ratios.extend(difference.std(axis=1, ddof=1) / size)
        return float(np.median(self._ratios))

    def _worth(self, seen: NDArray[np.float64], whole: NDArray[np.bool_]) -> NDArray[np.float64]:
        values = np.empty(len(seen))
        values[whole] = seen[whole].mean(axis=1)
        if self.leader is not None:
            values[~whole] = self.leader.mean() + np.nanmean(seen[~whole] - self.leader, axis=1)
        return values
