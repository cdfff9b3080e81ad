from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import dimod
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qcompress.alignment import Alignment
from qcompress.budgets import Budget, CostBudget, CountBudget
from qcompress.errors import BackendError, UsageError
from qcompress.problem import Problem
from qcompress.search import SearchResult, allocate, to_capacity
from qcompress.search_allocation import allocate_count
from qcompress.search_descent import descend
from qcompress.search_profiles import greedy_profiles
from qcompress.selection import Unit, UnitSpace
from qcompress.solvers import SOLVERS, from_dimod


def instance(
    sizes: tuple[int, ...], seed: int = 0, floor: int = 1, sign: str = "nonnegative", strength: float = 1.0
) -> Problem:
    """Log-normal importance and clustered couplings of the given sign, redundancy about as large as importance."""
    rng = np.random.default_rng(seed)
    space = UnitSpace.of([(f"g{g}", size) for g, size in enumerate(sizes)], floor)
    couplings = []
    for size in sizes:
        features = rng.normal(size=(size, max(2, size // 6)))
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        c = features @ features.T
        c = np.maximum(c, 0) if sign == "nonnegative" else -np.abs(c) if sign == "nonpositive" else c
        c = strength * (c + c.T) / 2
        np.fill_diagonal(c, 0)
        couplings.append(c)
    return Problem(space, rng.lognormal(size=len(space)), tuple(couplings))


def chain_cost(space: UnitSpace) -> Any:
    def cost(counts: Mapping[str, int]) -> int:
        widths = [2, *(size - counts.get(group, 0) for group, size in zip(space.groups, space.sizes, strict=True)), 3]
        return sum(9 * before * after + after for before, after in itertools.pairwise(widths))

    return cost


def allowed(problem: Problem) -> NDArray[np.bool_]:
    """Every x that keeps the floors."""
    x = np.array(list(itertools.product([False, True], repeat=len(problem.space))))
    most = np.subtract(problem.space.sizes, problem.space.floors)
    kept: NDArray[np.bool_] = x[(problem.space.counts(x) <= most).all(1)]
    return kept


def check(problem: Problem, budget: Budget, result: SearchResult) -> None:
    """What every result promises."""
    x = result.selection.x
    assert problem.space.allows(x)
    assert result.energy == float(problem.energy(x))
    assert result.energy <= result.greedy_energy
    assert result.capacity == int(budget.capacity(problem.space.counts(x)))
    assert result.asked == budget.target
    assert result.capacity == budget.target if budget.counts_units else result.capacity >= budget.target


@pytest.mark.parametrize("backend", list(SOLVERS))
@pytest.mark.parametrize("sign", ["nonnegative", "nonpositive", "mixed"])
@pytest.mark.parametrize("floor", [0, 1, 2])
def test_every_count_is_met_with_the_least_energy(backend: str, sign: str, floor: int) -> None:
    problem = instance((5, 4, 3), seed=floor, floor=floor, sign=sign)
    x = allowed(problem)
    energies = problem.energy(x)
    for target in range(problem.space.most + 1):
        budget = CountBudget(problem.space, target)
        result = to_capacity(problem, budget, SOLVERS[backend], seed=3, reads=8, rounds=4)
        check(problem, budget, result)
        assert result.energy == pytest.approx(energies[x.sum(1) == target].min(), abs=1e-9)


def test_costs_are_reached_with_nearly_the_least_energy() -> None:
    for seed in range(4):
        problem = instance((4, 5, 4), seed)
        cost = chain_cost(problem.space)
        x = allowed(problem)
        energies, capacities = problem.energy(x), CostBudget(problem.space, "params", cost, 1).capacity(problem.space.counts(x))
        gaps = []
        for target in np.linspace(1, capacities.max(), 12).astype(int).tolist():
            budget = CostBudget(problem.space, "params", cost, target)
            result = to_capacity(problem, budget, SOLVERS["exact"], seed=0, reads=8, rounds=4)
            check(problem, budget, result)
            best = energies[capacities >= target].min()
            gaps.append((result.energy - best) / best)
        assert np.median(gaps) < 1e-9
        assert max(gaps) < 0.1


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_selection_never_misses_its_budget(data: st.DataObject) -> None:
    sizes = tuple(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=5)))
    sign = data.draw(st.sampled_from(["nonnegative", "nonpositive", "mixed"]))
    strength = data.draw(st.sampled_from([0.0, 0.5, 5.0]))
    problem = instance(sizes, data.draw(st.integers(0, 99)), data.draw(st.integers(0, 3)), sign, strength)
    cost = chain_cost(problem.space)
    most = dict(zip(problem.space.groups, np.subtract(problem.space.sizes, problem.space.floors).tolist(), strict=True))
    budget: Budget = (
        CountBudget(problem.space, data.draw(st.integers(0, problem.space.most)))
        if data.draw(st.booleans())
        else CostBudget(problem.space, "macs", cost, data.draw(st.integers(0, cost({}) - cost(most))))
    )
    result = to_capacity(problem, budget, SOLVERS["steepest"], seed=data.draw(st.integers(0, 5)), reads=2, rounds=2)
    check(problem, budget, result)
    if not budget.counts_units:  # nothing is pruned that the target can do without
        counts = problem.space.counts(result.selection.x)
        fewer = counts - np.eye(len(counts), dtype=int)
        spare = budget.capacity(np.maximum(fewer, 0)) >= budget.target
        assert not (spare & (counts > 0)).any()


def test_without_couplings_a_count_is_sorted_and_no_backend_runs() -> None:
    def never(bqm: dimod.BinaryQuadraticModel, *, reads: int, seed: int) -> dimod.SampleSet:
        raise AssertionError("called")

    problem = instance((30, 20, 10), floor=4, strength=0.0)
    for target in (0, 1, 17, problem.space.most):
        result = to_capacity(problem, CountBudget(problem.space, target), never, seed=0)
        eligible = np.concatenate([np.sort(problem.linear[span])[: span.stop - span.start - 4] for span in problem.space.spans])
        assert result.energy == pytest.approx(np.sort(eligible)[:target].sum())
        assert (result.hit, result.trace, result.reads) == (True, (), 0)


def test_capacity_grows_with_gamma_for_the_exact_backend() -> None:
    problem = instance((9, 12, 10), seed=4)
    for target in (5, 14, 22):
        result = to_capacity(problem, CountBudget(problem.space, target), SOLVERS["exact"], seed=0, reads=1, rounds=10)
        trace = sorted(result.trace)
        assert [probe.capacity for probe in trace] == sorted(probe.capacity for probe in trace)
        assert [probe.energy for probe in trace] == pytest.approx(sorted(probe.energy for probe in trace))
        assert len(trace) == 10
        below = [probe.capacity for probe in trace if probe.capacity <= target]
        above = [probe.capacity for probe in trace if probe.capacity >= target]
        assert max(below) <= target <= min(above)  # bracketed


def test_the_exact_backend_proves_what_gamma_hits() -> None:
    """At a hit, energy - gamma * target is the minimum of the unconstrained problem: no selection of that size is better."""
    problem = instance((10, 11, 12), seed=2, floor=0)
    hits = 0
    for target in range(3, 30, 3):
        result = to_capacity(problem, CountBudget(problem.space, target), SOLVERS["exact"], seed=0, reads=1)
        for probe in result.trace:
            if probe.capacity == target:
                hits += 1
                assert result.energy == pytest.approx(probe.energy)
    assert hits > 5


def test_pooled_samples_beat_greedy_where_redundancy_rules() -> None:
    problem = instance((64,) * 8, seed=1, strength=0.5)
    result = to_capacity(problem, CountBudget(problem.space, 256), SOLVERS["neal"], seed=0)
    check(problem, CountBudget(problem.space, 256), result)
    assert result.energy < result.greedy_energy - 1e-6
    assert result.reads == 8 * 16
    assert all(isinstance(probe.capacity, int) and math.isfinite(probe.energy) for probe in result.trace)


def test_many_units() -> None:
    problem = instance((100,) * 50)
    budget = CountBudget(problem.space, 2500)
    check(problem, budget, to_capacity(problem, budget, SOLVERS["steepest"], seed=0, reads=1, rounds=2))


def test_many_groups_of_one_unit() -> None:
    problem = instance((1,) * 600, floor=0)
    for target in (0, 300, 600):
        budget = CountBudget(problem.space, target)
        check(problem, budget, to_capacity(problem, budget, SOLVERS["neal"], seed=0))


@pytest.mark.parametrize("sizes", [(), (1,), (0, 3)])
def test_spaces_that_are_nearly_empty(sizes: tuple[int, ...]) -> None:
    problem = Problem(
        UnitSpace.of([(f"g{g}", size) for g, size in enumerate(sizes)]),
        np.ones(sum(sizes)),
        tuple(np.ones((size, size)) - np.eye(size) for size in sizes),
    )
    for target in range(problem.space.most + 1):
        budget = CountBudget(problem.space, target)
        check(problem, budget, to_capacity(problem, budget, SOLVERS["neal"], seed=0))


def run_once() -> str:
    problem = instance((12, 20, 9), seed=8)
    budgets: tuple[Budget, ...] = (
        CountBudget(problem.space, 20),
        CostBudget(problem.space, "params", chain_cost(problem.space), 1500),
    )
    return repr(
        [to_capacity(problem, b, SOLVERS[name], seed=5, reads=3, rounds=3) for b in budgets for name in ("neal", "tabu")]
    )


@pytest.mark.slow
def test_same_seed_same_result_in_every_process() -> None:
    code = "import hashlib, runpy, sys; print(hashlib.sha256(runpy.run_path(sys.argv[1])['run_once']().encode()).hexdigest())"
    prints = {
        subprocess.run(
            [sys.executable, "-c", code, __file__],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(prints) == 1
    assert run_once() == run_once()


def test_allocation_is_an_exact_knapsack() -> None:
    rng = np.random.default_rng(0)
    profiles = greedy_profiles(instance((4, 3, 5), floor=0))
    for profile in profiles:
        profile.energies = rng.normal(size=len(profile.energies))
    for target in range(13):
        counts = allocate_count(profiles, target, [range(5), range(4), range(6)])
        assert counts.sum() == target
        best = min(
            sum(p.energies[k] for p, k in zip(profiles, ks, strict=True))
            for ks in itertools.product(range(5), range(4), range(6))
            if sum(ks) == target
        )
        assert sum(p.energies[k] for p, k in zip(profiles, counts, strict=True)) == pytest.approx(best)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.booleans())
def test_descent_ends_where_no_swap_helps(seed: int, across: bool) -> None:
    problem = instance((5, 4, 4), seed, sign="mixed", strength=3.0)
    space = problem.space
    start = allowed(problem)[np.random.default_rng(seed).integers(len(allowed(problem)))]
    end = descend(problem, start, across=across)
    assert problem.energy(end) <= problem.energy(start) + 1e-12
    assert space.allows(end)
    same = space.counts(start) == space.counts(end)
    assert space.counts(start).sum() == space.counts(end).sum() if across else same.all()
    for i, j in itertools.product(np.flatnonzero(end), np.flatnonzero(~end)):
        swapped = end.copy()
        swapped[[i, j]] = False, True
        if space.allows(swapped) and (across or space.group_of[i] == space.group_of[j]):
            assert problem.energy(swapped) >= problem.energy(end) - 1e-9


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999))
def test_profiles_tell_the_truth(seed: int) -> None:
    problem = instance((9, 6), seed, sign="mixed", strength=2.0, floor=2)
    rng = np.random.default_rng(seed)
    for group, profile in enumerate(greedy_profiles(problem)):
        before = profile.energies.copy()
        profile.offer(profile.within_floor(rng.random((20, problem.space.sizes[group])) < 0.7))
        profile.settle()
        assert (profile.energies <= before).all()
        assert profile.rows.sum(1).tolist() == list(range(profile.most + 1))
        np.testing.assert_allclose(profile.energies, profile.energy(profile.rows))


def test_bad_arguments() -> None:
    problem = instance((4, 4))
    budget = CountBudget(problem.space, 2)
    with pytest.raises(UsageError, match="reads is 0, expected at least 1"):
        to_capacity(problem, budget, SOLVERS["neal"], 0, reads=0)
    with pytest.raises(UsageError, match="rounds is -1, expected at least 1"):
        to_capacity(problem, budget, SOLVERS["neal"], 0, rounds=-1)
    with pytest.raises(ValueError, match="another space"):
        to_capacity(problem, CountBudget(UnitSpace.of([("a", 9)]), 2), SOLVERS["neal"], 0)


def test_failing_backends() -> None:
    problem = instance((4, 4))
    budget = CountBudget(problem.space, 2)
    with pytest.raises(BackendError, match="0 samples"):
        to_capacity(problem, budget, from_dimod(dimod.NullSampler()), 0)  # type: ignore[no-untyped-call]

    def forgetful(bqm: dimod.BinaryQuadraticModel, *, reads: int, seed: int) -> dimod.SampleSet:
        return dimod.SampleSet.from_samples({Unit("g0", 0): 1}, "BINARY", 0.0)  # type: ignore[no-untyped-call,no-any-return]

    with pytest.raises(BackendError, match="without 7 units"):
        to_capacity(problem, budget, forgetful, 0)


@pytest.mark.parametrize("align", [1, 4])
@pytest.mark.parametrize("seed", range(4))
def test_counts_by_profiles_alone_are_the_best_that_meet_the_budget(seed: int, align: int) -> None:
    space = UnitSpace.of([("a", 9), ("b", 5), ("c", 8)])
    rng = np.random.default_rng(seed)
    problem = Problem(space, np.sort(rng.random(22)), tuple(np.zeros((size, size)) for size in space.sizes))
    profiles, alignment = greedy_profiles(problem), Alignment(space, align)

    def energy(counts: tuple[int, ...]) -> float:
        return sum(float(profile.energies[k]) for profile, k in zip(profiles, counts, strict=True))

    for budget in (CountBudget(space, 8), CostBudget(space, "params", chain_cost(space), 60)):
        found = tuple(allocate(profiles, budget, alignment).tolist())
        goal = alignment.reach(budget)
        meets = [
            counts
            for counts in itertools.product(*alignment.allowed)
            if (int(goal.capacity(counts)) == goal.target if goal.counts_units else int(goal.capacity(counts)) >= goal.target)
        ]
        assert found in meets
        best = min(map(energy, meets))
        assert energy(found) <= (best if goal.counts_units else 1.1 * best) + 1e-12
    with pytest.raises(UsageError, match="are to go"):
        allocate(profiles, CostBudget(space, "params", chain_cost(space), chain_cost(space)({}) - 3), Alignment(space, 8))


def test_without_a_certificate_the_selection_is_the_same() -> None:
    problem = instance((6, 5), sign="mixed")
    budget = CountBudget(problem.space, 5)
    plain, bare = (to_capacity(problem, budget, SOLVERS["profile"], 1, certified=certified) for certified in (True, False))
    assert bare.certificate is None
    assert plain.certificate is not None
    assert (bare.selection, bare.energy) == (plain.selection, plain.energy)
