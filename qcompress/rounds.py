"""A target of latency against what is measured: whether it is missed, and what the latency table is to predict instead.

A table is off by some per cent (docs/benchmarks.md), and what it promises is not what a user asked for. With m measured of a
choice and p predicted for it, both in the time that the target is of, c = m / p is the table's error there; a choice that is
predicted to take the target divided by c meets it, if the error is the same there.

Clocks are off, too, and the same file takes other milliseconds a minute later; a speedup is a ratio within one measurement. So
the dense network has one time for all rounds: when one of them is kept and all are reported the median of all (`alike`), and
while they are made that of those so far (`steady`). A choice that seems to say much else of the table than is known of it is
timed a second time (`doubtful`) before the next one follows from it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal

from qcompress.gate.limits import LEAST_ROUNDS
from qcompress.targets import AtMost, Speedup

__all__ = [
    "LOOKS",
    "MOST",
    "Goal",
    "Measured",
    "Paced",
    "Reached",
    "Round",
    "alike",
    "consistent",
    "doubtful",
    "kept",
    "next_allowed",
    "steady",
]

MOST = 3
"""Choices at most: the correction of the second one mostly meets the target, and each takes an export and some seconds."""

LOOKS = 2
"""So often a choice is timed at most."""

JUMP = 0.15
"""A correction that differs by more from the one before (at first none) is doubted: few tables are off by as much."""

SLACK = 0.05
"""A target that is met by more is overshot: less is to go, if a choice is left."""

Reached = Literal["met", "missed", "undecided"]


@dataclass(frozen=True)
class Measured:
    """A slim network in alternation with the dense one, as `qcompress.latency.Latency` has it: `runs` are its rounds."""

    speedup: float
    ci95: tuple[float, float]
    dense_ms: float
    runs: int


@dataclass(frozen=True)
class Round:
    """One choice: the table was to predict `allowed_ps` at most, it predicted `predicted_ps`; and how often it was timed."""

    allowed_ps: int
    predicted_ps: int
    looks: tuple[Measured, ...]

    @property
    def measured(self) -> Measured:
        """All looks in one: medians of speedups and dense times, all that their intervals hold, the fewest runs."""
        return Measured(
            median(look.speedup for look in self.looks),
            (min(look.ci95[0] for look in self.looks), max(look.ci95[1] for look in self.looks)),
            median(look.dense_ms for look in self.looks),
            min(look.runs for look in self.looks),
        )


@dataclass(frozen=True)
class Goal:
    """The target, and the picoseconds that the table predicts for the dense network.

    Values are times as fast for a `Speedup`, milliseconds for `AtMost`; of the latter the measured ones are the dense network's
    divided by the speedup, for the two were timed in alternation; of which dense time, the caller says (`steady`, `alike`).
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

    def overshot(self, found: Measured) -> bool:
        """Whether the whole interval is better than the target by more than the slack."""
        low, high = self.interval(found)
        if self.reached(found) != "met":
            return False
        return low > self.asked * (1 + SLACK) if self.unit == "times" else high < self.asked / (1 + SLACK)


@dataclass(frozen=True)
class Paced:
    """How a target was held against measurements, before the refinement.

    rounds    the choices, in the order they were made; what one of them (`kept`) was allowed is what the run prunes to
    skipped   why nothing was measured, instead
    ended     why no further choice was made though the last one missed or overshot, where that is not their number
    """

    goal: Goal
    rounds: tuple[Round, ...] = ()
    skipped: str | None = None
    ended: str | None = None


def steady(rounds: Sequence[Round]) -> tuple[Round, ...]:
    """The rounds, each by the dense network's median time over all looks up to then: what was decided when it was made."""
    found, times = [], list[float]()
    for made in rounds:
        times += [look.dense_ms for look in made.looks]
        found.append(_at(made, median(times)))
    return tuple(found)


def alike(rounds: Sequence[Round]) -> tuple[Round, ...]:
    """The rounds, each by the dense network's median time over all looks: what they are compared by in the end."""
    times = [look.dense_ms for made in rounds for look in made.looks]
    return tuple(_at(made, median(times)) for made in rounds)


def _at(made: Round, dense_ms: float) -> Round:
    return replace(made, looks=tuple(replace(look, dense_ms=dense_ms) for look in made.looks))


def doubtful(goal: Goal, rounds: Sequence[Round]) -> bool:
    """Whether the last choice is to be timed again before another follows from it."""
    *before, last = steady(rounds)
    if len(last.looks) >= LOOKS or not (goal.reached(last.measured) == "missed" or goal.overshot(last.measured)):
        return False
    change = goal.correction(last) / (goal.correction(before[-1]) if before else 1.0)
    return max(change, 1 / change) > 1 + JUMP


def next_allowed(goal: Goal, rounds: Sequence[Round]) -> int | None:
    """What the next choice may be predicted to take at most; None where the last one will do, or was the last that is made.

    Always less than what a choice that missed was predicted to take, and more than one that met the target was allowed.
    """
    if len(rounds) >= MOST:
        return None
    found = steady(rounds)
    reached = [goal.reached(made.measured) for made in found]
    if not (reached[-1] == "missed" or goal.overshot(found[-1].measured)):
        return None
    too_many = min((made.predicted_ps for made in found if goal.reached(made.measured) == "missed"), default=goal.dense_ps)
    enough = max((made.allowed_ps for made in found if goal.reached(made.measured) != "missed"), default=0)
    allowed = math.floor(goal.most_ps / goal.correction(found[-1]))
    if enough and (allowed <= enough if reached[-1] == "missed" else allowed >= too_many):
        allowed = (enough + too_many) // 2  # two corrections that contradict each other: the middle of what is not known
    allowed = min(allowed, too_many - 1)
    return allowed if allowed > enough else None


def kept(goal: Goal, rounds: Sequence[Round]) -> Round:
    """The choice that the run prunes to: of those that were not measured to miss the one with most left, else the tightest."""
    hit = [made for made, found in zip(rounds, alike(rounds), strict=True) if goal.reached(found.measured) != "missed"]
    return max(hit, key=lambda made: made.allowed_ps) if hit else min(rounds, key=lambda made: made.allowed_ps)


def consistent(goal: Goal, rounds: Sequence[Round]) -> bool:
    """Whether a run could have left these rounds: each follows from those before, and was timed as often as it was doubted."""
    if not 1 <= len(rounds) <= MOST or rounds[0].allowed_ps != goal.most_ps:
        return False
    for number, made in enumerate(rounds):
        before, once = rounds[:number], replace(made, looks=made.looks[:1])
        if not 0 < made.predicted_ps <= made.allowed_ps or not 1 <= len(made.looks) <= LOOKS:
            return False
        if (len(made.looks) > 1) != doubtful(goal, (*before, once)) or (
            before and made.allowed_ps != next_allowed(goal, before)
        ):
            return False
    return True
