"""The largest share of a budget whose drop is within a limit, by bisection: the drop is taken to grow with the share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

__all__ = ["CONFIDENCE", "Trial", "best", "bisect", "margin"]

CONFIDENCE = 0.95
"""With which the true drop is within the limit, at one trial: one-sided."""


@dataclass(frozen=True)
class Trial:
    """A network at a `share` of the budget: its `drop` on the judging crops, and the `margin` for their number.

    capacity  what the selection frees, in the budget's unit; params, macs: of the slim network
    """

    share: float
    capacity: int
    params: int
    macs: int
    drop: float
    margin: float

    def within(self, limit: float) -> bool:
        """Whether the drop is within the limit, margin included; never for one that is no number."""
        return self.drop + self.margin <= limit


def bisect(attempt: Callable[[float], Trial], limit: float, largest: float, trials: int) -> tuple[Trial, ...]:
    """Attempts at `trials` shares of 0 to `largest`, the middle of what is left each time; in the order they were made.

    A share is tried to four digits.
    """
    low, high = 0.0, largest
    made: list[Trial] = []
    for _ in range(trials):
        share = round((low + high) / 2, 4)
        if share in (low, high):
            break
        made.append(attempt(share))
        low, high = (share, high) if made[-1].within(limit) else (low, share)
    return tuple(made)


def best(trials: Sequence[Trial], limit: float) -> Trial | None:
    """The trial of the largest share within the limit; None where there is none."""
    return max((trial for trial in trials if trial.within(limit)), key=lambda trial: trial.share, default=None)


def margin(drops: Callable[[NDArray[np.intp]], float], count: int) -> float:
    """What the drop over `count` crops may be off by, one-sided, at `CONFIDENCE`; `drops` is given the crops to take it over.

    The jackknife's standard error, which for a mean is the usual one, times Student's quantile. Crops of one picture are not
    independent, so it is rather too small. inf for fewer than two crops.
    """
    if count < 2:
        return math.inf
    every = np.arange(count)
    without = np.array([drops(np.delete(every, place)) for place in range(count)])
    error = math.sqrt((count - 1) / count * float(((without - without.mean()) ** 2).sum()))
    return float(stdtrit(count - 1, CONFIDENCE)) * error
