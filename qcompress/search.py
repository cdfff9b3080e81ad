"""The capacity search: a selection of least energy that frees what the budget asks for.

No penalty term. gamma, in energy per capacity, pays for every unit pruned; the problem at one gamma has no constraint, and its
capacity grows with gamma. Only capacities on the convex hull are hit that way, so every sample of every gamma is kept, as
points of the groups' profiles, and the profiles are recombined at the capacity wanted (Orabi et al., arXiv 2604.05856, for the
search over gamma; the recombination is a multiple-choice knapsack). Where couplings join groups, that settles the rest of the
problem only; swaps on the whole energy go on from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qcompress import seeds
from qcompress.alignment import Alignment
from qcompress.budgets import Allocating, Budget
from qcompress.errors import BackendError, UsageError
from qcompress.problem import Problem
from qcompress.search_allocation import allocate_cost, allocate_count, greedy_counts
from qcompress.search_blocks import allocate_blocks
from qcompress.search_certificate import Certificate, certify
from qcompress.search_coupled import baseline_coupled, search_coupled
from qcompress.search_descent import descend
from qcompress.search_profiles import Profile, greedy_profiles
from qcompress.selection import Selection
from qcompress.solvers.protocol import CapacitySolver, ProfileSolver, Solver

__all__ = ["Probe", "SearchResult", "allocate", "to_capacity"]

Row = NDArray[np.bool_]


class Probe(NamedTuple):
    """The best answer at one gamma: its exact capacity and its energy (without gamma), floors kept.

    With an alignment they are those of the allowed counts nearest to the answer's, group by group, at the lowest energies known
    for these; of couplings between groups, those of the answer as it came.
    """

    gamma: float
    capacity: int
    energy: float


@dataclass(frozen=True)
class SearchResult:
    """What was found.

    energy          of `selection`, the problem's own
    asked           the budget's target
    capacity        reached, exact, of `selection`: for a count `asked`, or the smallest sum of allowed counts above it; for any
                    other budget at least `asked`
    trace           the gammas tried, in order; empty where no backend was needed (nothing to prune, or no couplings)
    greedy_energy   the baseline under the same constraints: greedy pruning, then descent by swaps; with an alignment, or a
                    budget that allocates, greedy inside the groups and the best allowed counts; `energy` is never above it
    reads           samples that the backend drew
    hit             whether one gamma alone gave the target exactly, in allowed counts; with an alignment of a count, its
                    smallest feasible sum
    certificate     what is proven about `energy`; None where nothing was asked, or a selection was not searched for here
    """

    selection: Selection
    energy: float
    asked: int
    capacity: int
    trace: tuple[Probe, ...]
    greedy_energy: float
    reads: int
    hit: bool
    certificate: Certificate | None = None


def to_capacity(
    problem: Problem,
    budget: Budget,
    solver: Solver | CapacitySolver | ProfileSolver,
    seed: int,
    *,
    reads: int = 16,
    rounds: int = 8,
    align: int | Alignment = 1,
    certified: bool = True,
) -> SearchResult:
    """The selection of least energy found that frees the budget's target: exactly, for a count of units.

    `solver` draws `reads` samples at each of `rounds` gammas, which start at greedy pruning's own. Without couplings a count is
    met exactly and optimally by sorting, and no backend runs. A gamma is common to all groups, as in the paper: it is a price
    of capacity. The same arguments give the same result in every process, as far as the backend keeps that.

    Couplings between groups: a backend that works on profiles sees the rest of the problem, any other the whole; a tabu search
    by swaps takes up what it found, and the greedy baseline prunes on the whole energy.

    An `align` above 1, or an `Alignment`, allows only certain counts per group. A count budget is then met by the smallest sum
    of allowed counts that is at least the target. With `certified` False no time is spent on a bound.

    Raises UsageError for reads, rounds or align below 1 and for a target beyond what allowed counts free, BackendError if the
    backend fails.
    """
    for name, value in (("reads", reads), ("rounds", rounds)):
        if value < 1:
            raise UsageError(f"{name} is {value}, expected at least 1")
    if budget.space != problem.space or (isinstance(align, Alignment) and align.space != problem.space):
        raise ValueError("the budget or the alignment is of another space than the problem")
    task = _Task.of(problem, budget, Alignment(problem.space, align) if isinstance(align, int) else align)
    best = baseline = _baseline(task)
    trace: tuple[Probe, ...] = ()
    drawn = 0
    if task.goal.target and not (task.goal.counts_units and problem.separable_linear):
        if not problem.separable_linear:
            trace, drawn = _ask(task, solver, seed, reads, rounds)
        best = min(_recombine(task, seed, baseline), baseline, key=lambda x: float(problem.energy(x)))
    reached = int(task.goal.capacity(problem.space.counts(best)))
    return SearchResult(
        selection=Selection.of(problem.space, best),
        energy=float(problem.energy(best)),
        asked=budget.target,
        capacity=reached,
        trace=trace,
        greedy_energy=float(problem.energy(baseline)),
        reads=drawn,
        hit=task.goal.target in ([probe.capacity for probe in trace] or [reached]),
        certificate=certify(problem, task.goal, task.alignment, task.profiles, best) if certified else None,
    )


def allocate(profiles: Sequence[Profile], budget: Budget, alignment: Alignment) -> NDArray[np.int64]:
    """(G,) counts of least energy by the groups' profiles that meet the budget with allowed counts.

    Exact for a count, met by the smallest sum of allowed counts that is at least the target; for a cost the best of descents,
    unless the budget allocates by itself.
    Raises UsageError for a target beyond what allowed counts free.
    """
    goal = alignment.reach(budget)
    return _allocate(profiles, goal, alignment, greedy_counts(profiles, goal))


def _allocate(profiles: Sequence[Profile], goal: Budget, alignment: Alignment, greedy: NDArray[np.int64]) -> NDArray[np.int64]:
    """`allocate` for a goal that allowed counts meet; for a cost also from the counts `greedy`, which meet it."""
    if isinstance(goal, Allocating):
        return goal.allocate([profile.energies for profile in profiles], alignment.allowed)
    if goal.counts_units:
        return allocate_count(profiles, goal.target, alignment.allowed)
    if not alignment.free:
        return allocate_blocks(profiles, goal, alignment)
    starts = (greedy, greedy_counts(profiles, goal))
    ends = (allocate_cost(profiles, goal, start) for start in starts)
    return min(ends, key=lambda counts: _energy(profiles, counts))


@dataclass(frozen=True, eq=False)
class _Task:
    """What a search works on: the budget as far as allowed counts meet it, and what is known so far.

    profiles  of the part without couplings between groups; greedy  (G,) counts that reach the goal, by greedy profiles
    whole     selections that a backend found where couplings join groups, budget met or not
    """

    problem: Problem
    goal: Budget
    alignment: Alignment
    profiles: tuple[Profile, ...]
    greedy: NDArray[np.int64]
    whole: list[Row]

    @classmethod
    def of(cls, problem: Problem, budget: Budget, alignment: Alignment) -> _Task:
        goal, profiles = alignment.reach(budget), greedy_profiles(problem.inside)
        return cls(problem, goal, alignment, profiles, greedy_counts(profiles, goal), [])

    def allocate(self) -> NDArray[np.int64]:
        """Counts per group, allowed ones: exact for a count; for a cost, the best of descents from two greedy counts."""
        return _allocate(self.profiles, self.goal, self.alignment, self.greedy)


def _energy(profiles: Sequence[Profile], counts: NDArray[np.int64]) -> float:
    return sum(float(profile.energies[k]) for profile, k in zip(profiles, counts.tolist(), strict=True))


def _baseline(task: _Task) -> Row:
    """Greedy pruning, then descent by swaps."""
    free = task.alignment.free and not isinstance(task.goal, Allocating)
    greedy = _finish(task, task.greedy if free else task.allocate())
    return greedy if task.problem.separable else baseline_coupled(task.problem, task.goal, task.alignment, greedy)


def _recombine(task: _Task, seed: int, baseline: Row) -> Row:
    """The best selection of the profiles; where couplings join groups, of a search from there on the whole energy."""
    found = _finish(task, task.allocate())
    if task.problem.separable:
        return found
    return search_coupled(task.problem, task.goal, task.alignment, [baseline, found, *task.whole], seed)


def _finish(task: _Task, counts: NDArray[np.int64]) -> Row:
    """(n,) the profiles' rows at `counts`, after descent by swaps that keep the capacity, and aligned counts too."""
    free = task.alignment.free
    if free and not task.goal.counts_units and not isinstance(task.goal, Allocating):
        counts = allocate_cost(task.profiles, task.goal, counts)
    rows = [profile.rows[k] for profile, k in zip(task.profiles, counts.tolist(), strict=True)]
    return descend(task.problem.inside, np.concatenate([np.zeros(0, bool), *rows]), across=free and task.goal.counts_units)


def _ask(
    task: _Task, solver: Solver | CapacitySolver | ProfileSolver, seed: int, reads: int, rounds: int
) -> tuple[tuple[Probe, ...], int]:
    """Lets the backend work, in the way that it can. Returns the trace, where it has one, and the samples or searches."""
    if isinstance(solver, ProfileSolver):
        return (), solver.improve(
            task.profiles, task.alignment.allowed, task.allocate, seed=seeds.integer(seed, "search profiles")
        )
    trace: tuple[Probe, ...] = ()
    if isinstance(solver, CapacitySolver):
        drawn = _ask_at_capacity(task, solver, seed, reads)
    else:
        trace, drawn = _probe_gammas(task, solver, seed, reads, rounds)
    for profile in task.profiles:
        profile.settle()
    return trace, drawn


def _ask_at_capacity(task: _Task, solver: CapacitySolver, seed: int, reads: int) -> int:
    """One question to a backend with constraints of its own; its rows go into the profiles. Returns the number of rows.

    Where couplings join groups, they are kept whole too.
    """
    problem = task.problem
    rows = solver.at_capacity(problem, task.goal, task.alignment, reads=reads, seed=seeds.integer(seed, "search at capacity"))
    if rows.ndim != 2 or rows.shape[1] != len(problem.space) or not len(rows):
        raise BackendError(f"the backend returned selections of shape {rows.shape}, expected (1 or more, {len(problem.space)})")
    _offer(problem, task.profiles, rows)
    if not problem.separable:
        task.whole.extend(rows)
    return len(rows)


def _probe_gammas(task: _Task, solver: Solver, seed: int, reads: int, rounds: int) -> tuple[tuple[Probe, ...], int]:
    """Bracket, then bisect on gamma; every sample goes into the profiles. Returns the trace and the number of samples.

    Weights are the marginal capacities at the greedy counts: near the target, gamma then means energy per exact capacity.
    """
    per_group = np.maximum(task.goal.marginals(task.greedy), 1e-9)
    weights = np.repeat(per_group, task.problem.space.sizes)
    gamma, step = _greedy_gamma(task.profiles, task.greedy, per_group)
    low, high = -np.inf, np.inf
    trace: list[Probe] = []
    drawn = 0
    for number in range(rounds):
        samples = _draw(task.problem, solver, gamma, weights, reads, seeds.integer(seed, f"search probe {number}"))
        drawn += len(samples)
        take = _take if task.problem.separable else _take_whole
        probe = take(task, gamma, per_group, samples)
        trace.append(probe)
        # At a hit either side may be searched on: more samples near the target are what the profiles gain from.
        short = probe.capacity < task.goal.target or (probe.capacity == task.goal.target and number % 2 == 0)
        low, high = (gamma, high) if short else (low, gamma)
        if np.isinf(low) or np.isinf(high):
            gamma, step = gamma + (step if short else -step), 2 * step
        else:
            gamma = (low + high) / 2
    return tuple(trace), drawn


def _greedy_gamma(
    profiles: Sequence[Profile], counts: NDArray[np.int64], per_group: NDArray[np.float64]
) -> tuple[float, float]:
    """Energy per capacity between the last units that greedy pruned and the next it would; and a first step, > 0."""
    pairs = list(zip(profiles, counts.tolist(), per_group.tolist(), strict=True))
    last = [float(p.energies[k] - p.energies[k - 1]) / w for p, k, w in pairs if k > 0]
    after = [float(p.energies[k + 1] - p.energies[k]) / w for p, k, w in pairs if k < p.most]
    ends = (*((max(last),) if last else ()), *((min(after),) if after else ()))
    gamma = sum(ends) / len(ends)
    spread = max((abs(value - gamma) for value in (*last, *after)), default=0.0)
    return gamma, max(0.05 * abs(gamma), 0.1 * spread) or 1.0


def _draw(problem: Problem, solver: Solver, gamma: float, weights: NDArray[np.float64], reads: int, seed: int) -> Row:
    """(K, n) samples at gamma, in the order of the space."""
    found = solver(problem.to_bqm(gamma, weights), reads=reads, seed=seed)
    place = {variable: number for number, variable in enumerate(found.variables)}
    missing = [unit for unit in problem.space.units if unit not in place]
    if missing or not len(found):
        raise BackendError(f"the backend returned {len(found)} samples without {len(missing)} units, expected all in each")
    return np.asarray(found.record.sample[:, [place[unit] for unit in problem.space.units]] > 0)


def _offer(problem: Problem, profiles: Sequence[Profile], samples: Row) -> None:
    """Samples (K, n) into the profiles, as they are and after descent by swaps."""
    for span, profile in zip(problem.space.spans, profiles, strict=True):
        if profile.coupled:
            rows = profile.within_floor(np.unique(samples[:, span], axis=0))
            profile.offer(rows)
            profile.offer(profile.descend(rows))


def _take(task: _Task, gamma: float, per_group: NDArray[np.float64], samples: Row) -> Probe:
    """Samples (K, n) into the profiles, after descent by swaps; the best of each group as they came make the probe."""
    counts = []
    energy = 0.0
    parts = zip(task.problem.space.spans, task.profiles, task.alignment.allowed, per_group.tolist(), strict=True)
    for span, profile, offer, weight in parts:
        rows = profile.within_floor(np.unique(samples[:, span], axis=0))
        energies = profile.energy(rows)
        best = int((energies - gamma * weight * rows.sum(1)).argmin())
        if profile.coupled:
            profile.offer(rows)
            profile.offer(profile.descend(rows))
        count = int(rows[best].sum())
        nearest = min(offer, key=lambda k: abs(k - count))
        counts.append(nearest)
        energy += float(energies[best] if nearest == count else profile.energies[nearest])
    return Probe(gamma, int(task.goal.capacity(counts)), energy)


def _take_whole(task: _Task, gamma: float, per_group: NDArray[np.float64], samples: Row) -> Probe:
    """Samples (K, n) into the profiles, the best of them whole: that is the probe."""
    problem, counts = task.problem, task.problem.space.counts(samples)
    energies = problem.energy(samples)
    best = int((energies - gamma * (counts @ per_group)).argmin())
    task.whole.append(samples[best])
    _offer(problem, task.profiles, samples)
    return Probe(gamma, int(task.goal.capacity(counts[best])), float(energies[best]))
