"""Scores as a quadratic problem: the hybrid QUBO and its rivals, one small dataclass each, one table."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from qcompress import seeds
from qcompress.errors import UsageError
from qcompress.problem import LARGEST_CROSS, Problem
from qcompress.scores import Scores

__all__ = [
    "OBJECTIVES",
    "Auto",
    "Fisher",
    "Hybrid",
    "Interaction",
    "L1Qubo",
    "Magnitude",
    "Objective",
    "Problem",
    "Random",
    "Reconstruction",
    "Taylor",
    "coefficients_of",
    "formulate",
    "name_of",
    "objective",
]


class Objective(Protocol):
    """Turns scores into a problem. Coefficients are fields, so that every one of them can be set and reported."""

    def problem(self, scores: Scores) -> Problem:
        """The problem over `scores.space`; the same for the same scores."""


@dataclass(frozen=True)
class Hybrid:
    """Importance plus redundancy inside groups (Orabi et al., arXiv 2604.05856).

        Q_ii = beta_diag A_ii + alpha I_i^Taylor + alpha_fisher I_i^Fisher
        Q_ij = 2 beta_off A_ij + similarity max(0, S_ij)                       i < j, inside a group
        A_ij = a_i a_j,  a_i = mean |w| of unit i

    Scales, chosen so that the coefficients compare: Taylor and Fisher are divided by their mean over all units; A, diagonal and
    off-diagonal alike, by the mean of a_i^2, so that beta_diag = beta_off = b is still b (sum_i a_i x_i)^2 per group; max(0, S)
    by the mean over all units of sum_{j != i} max(0, S_ij), so that similarity = 1 charges a unit, once all of its group is
    gone, as much as its mean importance. The paper does not give its coefficients. These defaults are chosen: importance leads,
    redundancy corrects it a little (at 0.3 it lost up to 0.6 dB to greedy Taylor after repair, see docs/benchmarks.md), and A,
    which is a poor guide without training, is off.
    """

    alpha: float = 1.0
    alpha_fisher: float = 1.0
    beta_diag: float = 0.0
    beta_off: float = 0.0
    similarity: float = 0.03

    def problem(self, scores: Scores) -> Problem:
        """Linear part and couplings as above."""
        scale = _mean(scores.magnitude**2)
        linear = (
            self.beta_diag * scores.magnitude**2 / scale
            + self.alpha * scores.taylor / _mean(scores.taylor)
            + self.alpha_fisher * scores.fisher / _mean(scores.fisher)
        )
        alike = [_off_diagonal(np.maximum(s, 0)) for s in scores.similarity]
        alike_scale = _mean(np.concatenate([np.zeros(0), *(s.sum(1) for s in alike)]))
        couplings = []
        for span, s in zip(scores.space.spans, alike, strict=True):
            a = scores.magnitude[span]
            pairs = 2 * self.beta_off * np.outer(a, a) / scale + self.similarity * s / alike_scale
            couplings.append(_off_diagonal(pairs))
        return Problem(scores.space, linear, tuple(couplings))


@dataclass(frozen=True)
class L1Qubo:
    """Q = A: the squared sum of the pruned units' mean |w| per group (Wang et al., arXiv 2505.16332), a baseline."""

    beta_diag: float = 1.0
    beta_off: float = 1.0

    def problem(self, scores: Scores) -> Problem:
        """As `Hybrid` with importance and similarity off."""
        return Hybrid(0.0, 0.0, self.beta_diag, self.beta_off, 0.0).problem(scores)


@dataclass(frozen=True)
class Taylor:
    """The least mean |dL/dm_i| go: no couplings, so a count is met by sorting."""

    def problem(self, scores: Scores) -> Problem:
        """Taylor scores over their mean."""
        return _separable(scores, scores.taylor / _mean(scores.taylor))


@dataclass(frozen=True)
class Fisher:
    """The least mean (dL/dm_i)^2 go: no couplings."""

    def problem(self, scores: Scores) -> Problem:
        """Fisher scores over their mean."""
        return _separable(scores, scores.fisher / _mean(scores.fisher))


@dataclass(frozen=True)
class Interaction:
    """What each sample's loss says to second order, with couplings between all units, of whatever groups.

        E(x) = -first mean(T)'x + second / 2 x'(T'T / N) x,    T = `Scores.gradients` (N, n)

    T'T / N stands for the curvature, as in Combinatorial Brain Surgeon (Yu et al., ICML 2022) and CHITA (Benbaki et al., ICML
    2023): units whose removal moves every sample's loss the same way cost more together than apart, and such as move it in
    opposite ways less. x_i^2 = x_i puts the diagonal into the linear part. Both terms are divided by the mean of |T|, which
    changes no choice. T'T has rank N at most: with fewer samples than units many selections cost the same.

    Raises UsageError for scores without gradients, and above `qcompress.problem.LARGEST_CROSS` units.
    """

    first: float = 1.0
    second: float = 1.0

    def problem(self, scores: Scores) -> Problem:
        """Linear part, couplings inside groups and between them, as above."""
        t, space = scores.gradients, scores.space
        if t is None:
            raise UsageError(
                "objective interaction: the scores hold no gradients", "score again: qcompress.scoring.score keeps them"
            )
        if len(space) > LARGEST_CROSS:
            raise UsageError(
                f"objective interaction: {len(space)} units, expected at most {LARGEST_CROSS}",
                "--objective hybrid takes any number",
            )
        scale = _mean(np.abs(t))
        cross = t.T @ t
        cross = (cross + cross.T) * (self.second / (2 * len(t) * scale))
        linear = -self.first * t.mean(0) / scale + cross.diagonal() / 2
        couplings = []
        for span in space.spans:
            couplings.append(_off_diagonal(cross[span, span]))
            cross[span, span] = 0.0
        return Problem(space, linear, tuple(couplings), cross)


@dataclass(frozen=True)
class Magnitude:
    """The least mean |w| go: no couplings."""

    def problem(self, scores: Scores) -> Problem:
        """Magnitudes over their mean."""
        return _separable(scores, scores.magnitude / _mean(scores.magnitude))


@dataclass(frozen=True)
class Random:
    """Any may go: uniform random costs, the same for the same `seed`."""

    seed: int = 0

    def problem(self, scores: Scores) -> Problem:
        """Independent of everything in `scores` but the space."""
        return _separable(scores, seeds.stream(self.seed, "objective random").random(len(scores.space)))


@dataclass(frozen=True)
class Reconstruction:
    """What is lost once the layers behind the pruned units are refitted: the default where the network is repaired.

    No function of the scores: it needs the network and a budget (`qcompress.reconstruction.formulate`). With `calibrated` 1 the
    loss of every group is corrected by measurements, with 0 it is the least-squares loss.
    """

    calibrated: float = 1.0

    def problem(self, scores: Scores) -> Problem:
        """Raises UsageError."""
        raise UsageError(
            "objective reconstruction is made from a network and a budget, not from scores", "use choosing.problem"
        )


@dataclass(frozen=True)
class Auto:
    """Where a run repairs by least squares `Reconstruction`, else `Hybrid` with scores taken anew: see `Settings.resolved`."""

    def problem(self, scores: Scores) -> Problem:
        """Raises UsageError: it stands for another."""
        raise UsageError("objective auto stands for another one, which depends on the repair", "use Settings.resolved()")


OBJECTIVES: Mapping[str, Callable[..., Objective]] = MappingProxyType(
    {
        "auto": Auto,
        "reconstruction": Reconstruction,
        "hybrid": Hybrid,
        "l1-qubo": L1Qubo,
        "taylor": Taylor,
        "fisher": Fisher,
        "interaction": Interaction,
        "magnitude": Magnitude,
        "random": Random,
    }
)


def objective(name: str, **coefficients: float) -> Objective:
    """The objective called `name`, with some of its coefficients set.

    Raises UsageError for an unknown name, a coefficient that the objective does not have, and one that is not finite.

    >>> objective("hybrid", similarity=1.0).similarity
    1.0
    """
    if name not in OBJECTIVES:
        raise UsageError(f"objective {name!r} is unknown, expected one of {', '.join(OBJECTIVES)}")
    known = [field.name for field in dataclasses.fields(OBJECTIVES[name])]  # type: ignore[arg-type]
    for key, value in coefficients.items():
        if key not in known:
            raise UsageError(
                f"objective {name} has no coefficient {key!r}, expected one of: {', '.join(known) or '(it has none)'}",
                "name the objective that it is of, such as --objective hybrid" if name == "auto" else None,
            )
        if not math.isfinite(value):
            raise UsageError(f"objective {name}: {key} is {value}, expected a finite number")
    return OBJECTIVES[name](**coefficients)


def name_of(objective: Objective) -> str:
    """The name in `OBJECTIVES`, or the class's own for an objective from elsewhere.

    >>> name_of(Hybrid(similarity=1.0))
    'hybrid'
    """
    return next((name for name, kind in OBJECTIVES.items() if kind is type(objective)), type(objective).__name__)


def coefficients_of(objective: Objective) -> dict[str, float]:
    """What `objective` of the same name takes to make it again; of an objective from elsewhere nothing is known.

    >>> coefficients_of(Hybrid(similarity=1.0))["similarity"]
    1.0
    """
    return {name: float(value) for name, value in vars(objective).items()} if name_of(objective) in OBJECTIVES else {}


def formulate(objective: Objective, scores: Scores) -> Problem:
    """The problem that `objective` makes of `scores`."""
    return objective.problem(scores)


def _mean(values: NDArray[np.float64]) -> float:
    """Mean to divide by; 1 for scores that are all zero, which then stay zero."""
    return float(values.mean()) or 1.0 if values.size else 1.0


def _off_diagonal(square: NDArray[np.float64]) -> NDArray[np.float64]:
    """Symmetric to the last bit, zero diagonal."""
    symmetric = (square + square.T) / 2
    np.fill_diagonal(symmetric, 0.0)
    return symmetric


def _separable(scores: Scores, linear: NDArray[np.float64]) -> Problem:
    return Problem(scores.space, linear, tuple(np.zeros((size, size)) for size in scores.space.sizes))
