"""What the parts of the refinement agree on: evaluators, energies, proposers, and what comes out. Plain values, no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qcompress.selection import Selection

__all__ = ["Ended", "Energy", "Evaluate", "Measured", "Proposer", "Proposing", "RefineProgress", "RefineResult"]

Energy: TypeAlias = Callable[[NDArray[np.bool_]], NDArray[np.float64]]
"""(K, n) masks -> (K,) energies of the surrogate, in any unit; lower is better."""

Ended: TypeAlias = Literal["evaluations", "minutes", "exhausted", "interrupt"]
"""Why a refinement ended: what it might spend is spent, no new candidate was found any more, or KeyboardInterrupt."""


class Evaluate(Protocol):
    """The true metric of candidates."""

    @property
    def images(self) -> int:
        """Number of images that a whole evaluation sees."""

    def __call__(self, selections: Sequence[Selection], images: range) -> NDArray[np.float64]:
        """(K, len(images)) metric in dB of each candidate on each of `images`, higher is better.

        A candidate's values depend on itself and on `images`, not on what else is in the call.
        """


@dataclass(frozen=True)
class Measured:
    """Candidates and what is known about them.

    masks   (K, n) 1 = pruned
    values  (K,) mean metric in dB; where not `whole`, the incumbent's plus the mean paired difference on the images seen
    whole   (K,) whether every image was seen
    """

    masks: NDArray[np.bool_]
    values: NDArray[np.float64]
    whole: NDArray[np.bool_]


class Proposer(Protocol):
    """Makes candidates (ask), learns from what they are worth (tell)."""

    def ask(self, count: int) -> NDArray[np.bool_]:
        """(K, n) masks with as many units pruned as the start and no floor broken; K may differ from `count`, or be 0.

        Repetitions and masks known already are allowed: the loop drops them.
        """

    def tell(self, measured: Measured) -> None:
        """What was measured since the last call; the first call brings the start alone."""


class Proposing(Protocol):
    """The settings of a proposer."""

    def begin(self, start: Selection, energy: Energy | None, rng: np.random.Generator) -> Proposer:
        """A proposer that knows nothing but the start and, where there is one, the surrogate."""


@dataclass(frozen=True)
class RefineProgress:
    """How far a refinement has come; values in dB.

    of      evaluations that it may spend, None for as many as the clock allows
    spent   0..1: the share of its evaluations or of its minutes that is spent, whichever is more
    """

    evaluations: float
    of: int | None
    spent: float
    start_value: float
    best: float


@dataclass(frozen=True)
class RefineResult:
    """What a refinement found.

    selection    the best candidate that was measured on every image, the start included
    start_value  metric of the start in dB on the evaluation images; nan when nothing was measured
    value        metric of `selection`, never below `start_value`
    gain         value - start_value; 0.0 when nothing was measured
    evaluations  image measurements spent, in units of all images: racing costs fractions, a cached candidate nothing
    candidates   number of different candidates measured, wholly or in part, the start included
    accepted     how many times a candidate became the new best
    history      (evaluations spent, best value so far) at the start and whenever the best changed
    ended        why it ended; "evaluations" also where there were none to spend
    measured     (energy by the surrogate, value) of candidates that were measured on every image, the start first
    steps        (energy, value) of every candidate, also of those seen on some images only, less those of the best before it;
                 of both the first 2,000, none without a surrogate (see `predictions`)
    """

    selection: Selection
    start_value: float
    value: float
    gain: float
    evaluations: float
    candidates: int
    accepted: int
    history: tuple[tuple[float, float], ...]
    ended: Ended
    measured: tuple[tuple[float, float], ...] = ()
    steps: tuple[tuple[float, float], ...] = ()

    @property
    def interrupted(self) -> bool:
        """Whether KeyboardInterrupt ended it."""
        return self.ended == "interrupt"

    @property
    def complete(self) -> bool:
        """Whether it has nothing left to do: neither the clock nor an interrupt ended it."""
        return self.ended in ("evaluations", "exhausted")
