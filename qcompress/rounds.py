"""A target of latency against what is measured: whether it is missed, and what the latency table is to predict instead.

A table is off by some per cent (docs/benchmarks.md), and what it promises is not what a user asked for. With m measured of a
choice and p predicted for it, both in the time that the target is of, c = m / p is the table's error there; a choice that is
predicted to take the target divided by c meets it, if the error is the same there.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from qcompress.gate.limits import LEAST_ROUNDS
from qcompress.targets import AtMost, Speedup

__all__ = ["MOST", "Goal", "Measured", "Paced", "Reached", "Round", "consistent"]

MOST = 3
"""Choices at most: the correction of the second one mostly meets the target, and each takes an export and some seconds."""

Reached = Literal["met", "missed", "undecided"]


@dataclass(frozen=True)
class Measured:
    """A slim network in alternation with the dense one, as `qcompress.latency.Latency` has it: `runs` are rounds."""

    speedup: float
    ci95: tuple[float, float]
    dense_ms: float
    runs: int


@dataclass(frozen=True)
class Round:
    """One choice: the table was to predict `allowed_ps` at most, it predicted `predicted_ps`; and what was measured."""

    allowed_ps: int
    predicted_ps: int
    measured: Measured


@dataclass(frozen=True)
class Goal:
    """The target, and the picoseconds that the table predicts for the dense network.

    Values are times as fast for a `Speedup`, milliseconds for `AtMost`; of the latter the measured ones are the dense network's
    of the same rounds divided by the speedup, for the two were timed in alternation.
    """

    target: AtMost | Speedup
    dense_ps: int

    @property
    def unit(self) -> Literal["times", "ms"]:
        """Of the values."""
        return "times" if isinstance(self.target, Speedup) else "ms"

    @property
    def asked(self) -> float:
        """The target's value."""
        return self.target.factor if isinstance(self.target, Speedup) else self.target.amount

    @property
    def most_ps(self) -> int:
        """What may be predicted at most, as far as the table is right."""
        return math.floor(self.dense_ps / self.asked if isinstance(self.target, Speedup) else self.asked * 1e9)

    def predicted(self, picoseconds: int) -> float:
        """The value of a prediction."""
        return self.dense_ps / max(picoseconds, 1) if self.unit == "times" else picoseconds / 1e9

    def value(self, found: Measured) -> float:
        """The value that was measured."""
        return found.speedup if self.unit == "times" else found.dense_ms / found.speedup

    def interval(self, found: Measured) -> tuple[float, float]:
        """Its 95 % interval, ascending; of milliseconds for the dense network's median as it is."""
        low, high = found.ci95
        return (low, high) if self.unit == "times" else (found.dense_ms / high, found.dense_ms / low)

    def reached(self, found: Measured) -> Reached:
        """Missed, or met, where the whole interval is; with few rounds there is none, and nothing is decided."""
        needed = self.asked if self.unit == "times" else found.dense_ms / self.asked
        low, high = found.ci95
        if found.runs < LEAST_ROUNDS or low < needed <= high:
            return "undecided"
        return "missed" if high < needed else "met"

    def correction(self, made: Round) -> float:
        """Time measured over time predicted, both as the target counts it: above 1 where the table promised too much."""
        predicted, measured = self.predicted(made.predicted_ps), self.value(made.measured)
        return predicted / measured if self.unit == "times" else measured / predicted

    def allowed_after(self, made: Round) -> int:
        """What the next choice may be predicted to take; after one that missed always less than that one."""
        return min(math.floor(self.most_ps / self.correction(made)), made.predicted_ps - 1)


@dataclass(frozen=True)
class Paced:
    """How a target was held against measurements, before the refinement.

    rounds    the choices, in the order they were made; what the last was allowed is what the run prunes to
    skipped   why nothing was measured, instead
    ended     why no tighter choice was made though the last one missed, where that is not their number
    """

    goal: Goal
    rounds: tuple[Round, ...] = ()
    skipped: str | None = None
    ended: str | None = None


def consistent(goal: Goal, rounds: Sequence[Round]) -> bool:
    """Whether a run could have left these rounds: each follows from the one before, and only what missed is followed."""
    if not 1 <= len(rounds) <= MOST or rounds[0].allowed_ps != goal.most_ps:
        return False
    if any(not 0 < made.predicted_ps <= made.allowed_ps for made in rounds):
        return False
    return all(
        goal.reached(made.measured) == "missed" and after.allowed_ps == goal.allowed_after(made)
        for made, after in itertools.pairwise(rounds)
    )
