"""Leap's hybrid solver of constrained models: the count is a constraint, and one problem is enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qcompress.alignment import Alignment
from qcompress.budgets import Budget
from qcompress.errors import BackendError
from qcompress.problem import Problem
from qcompress.solvers.account import Account
from qcompress.solvers.cloud import patient, translated
from qcompress.solvers.leap import affordable, resolved, seconds_of

if TYPE_CHECKING:
    from dimod import ConstrainedQuadraticModel

__all__ = ["LeapCqm", "LeapCqmSession", "constrained"]


@dataclass(frozen=True)
class LeapCqm:
    """One problem of `time_limit` seconds (0: the least that the solver accepts for its size), at most `max_seconds`.

    `solver`: its name; empty for the account's default.
    """

    solver: str = ""
    time_limit: float = 0.0
    max_seconds: float = 60.0

    @contextmanager
    def open(self, say: Callable[[str], None]) -> Iterator[LeapCqmSession]:
        """Connects, by the usual configuration of D-Wave's client. Raises BackendError."""
        with translated("leap-cqm"):
            from dwave.system import LeapHybridCQMSampler  # type: ignore[import-untyped]

            sampler = LeapHybridCQMSampler(**({"solver": self.solver} if self.solver else {}))
        with closing(sampler):
            yield LeapCqmSession(sampler, self, say)


class LeapCqmSession:
    """Solves problems at a capacity on `sampler`, a LeapHybridCQMSampler. A seed has no effect there."""

    def __init__(self, sampler: Any, options: LeapCqm, say: Callable[[str], None]) -> None:
        self._sampler, self._options, self._say = sampler, options, say
        self.account = Account("leap-cqm", str(sampler.solver.name))

    def at_capacity(
        self, problem: Problem, budget: Budget, alignment: Alignment, *, reads: int, seed: int
    ) -> NDArray[np.bool_]:
        """The solver's samples, feasible ones first; `reads` and `seed` have no effect."""
        del reads, seed
        model = constrained(problem, budget, alignment)
        with translated("leap-cqm"):
            seconds = self._options.time_limit or float(self._sampler.min_time_limit(model))
            self.account = affordable(self.account, seconds, self._options.max_seconds, self._say)
            found = patient(lambda: resolved(self._sampler.sample_cqm(model, time_limit=seconds, label="qcompress")))
            if not len(found):
                raise BackendError("backend leap-cqm: the answer holds no sample", "run the same command again")
            order = [found.variables.index(f"x{place}") for place in range(len(problem.space))]
        self.account = replace(
            self.account, submissions=1, reads=len(found), access_s=seconds_of(found.info, seconds)[0], blocks=1
        )
        rows = found.record.sample[np.argsort(~found.record.is_feasible, kind="stable")][:, order]
        return np.unique(np.asarray(rows > 0.5), axis=0)


def constrained(problem: Problem, budget: Budget, alignment: Alignment) -> ConstrainedQuadraticModel:
    """`problem` with the budget and the allowed counts as linear constraints; variable "x7" is the unit at place 7.

    A count is met exactly. A cost is a product of counts: here it is linear, each unit freeing what the exact cost says at the
    same share of every group; the search makes it exact afterwards. Where counts are restricted, a one-hot choice per group
    gives the number of its pruned units; otherwise the floor bounds it.
    """
    from dimod import BINARY, BinaryQuadraticModel, ConstrainedQuadraticModel

    space = problem.space
    names = [f"x{place}" for place in range(len(space))]
    linear, (rows, columns, values) = problem.to_bqm().to_numpy_vectors(variable_order=list(space.units))[:2]
    objective = BinaryQuadraticModel.from_numpy_vectors(linear, (rows, columns, values), 0.0, BINARY, variable_order=names)
    model = ConstrainedQuadraticModel()  # type: ignore[no-untyped-call]
    model.set_objective(objective)
    weights, target = _weights(budget)
    sense = "==" if budget.counts_units else ">="
    model.add_constraint([(name, float(w)) for name, w in zip(names, weights, strict=True)], sense, target, label="capacity")
    for g, (span, allowed) in enumerate(zip(space.spans, alignment.allowed, strict=True)):
        own = [(name, 1.0) for name in names[span]]
        if allowed == tuple(range(allowed[-1] + 1)):
            model.add_constraint(own, "<=", float(allowed[-1]), label=f"floor {g}")
            continue
        levels = [f"count{g}_{k}" for k in allowed]
        for level in levels:
            model.add_variable("BINARY", level)
        model.add_constraint(
            [*own, *((level, -float(k)) for level, k in zip(levels, allowed, strict=True))], "==", 0.0, label=f"count {g}"
        )
        model.add_constraint([(level, 1.0) for level in levels], "==", 1.0, label=f"one count {g}")
    return model


def _weights(budget: Budget) -> tuple[NDArray[np.float64], float]:
    """(n,) what each unit frees, and the target: relative, so that the numbers stay near 1 for a cost."""
    if budget.counts_units:
        return np.ones(len(budget.space)), float(budget.target)
    sizes, most = np.array(budget.space.sizes), np.subtract(budget.space.sizes, budget.space.floors)
    steps = np.linspace(0, 1, 65)[:, None]
    counts = np.floor(steps * most).astype(np.int64)
    reach = int((budget.capacity(counts) >= budget.target).argmax())
    per_unit = np.repeat(np.maximum(budget.marginals(counts[reach]), 0.0), sizes)
    freed = float((per_unit * np.repeat(counts[reach] / np.maximum(sizes, 1), sizes)).sum())
    share = budget.target / max(int(budget.capacity(counts[reach])), 1)
    unit = float(per_unit.mean()) or 1.0
    return per_unit / unit, share * freed / unit
