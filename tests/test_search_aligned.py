from __future__ import annotations

import itertools
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

from qcompress import search_blocks
from qcompress.alignment import Alignment
from qcompress.budgets import Budget, CostBudget, CountBudget
from qcompress.errors import UsageError
from qcompress.problem import Problem
from qcompress.search import SearchResult, to_capacity
from qcompress.search_profiles import greedy_profiles
from qcompress.selection import UnitSpace
from qcompress.solvers import SOLVERS


def instance(sizes: tuple[int, ...], seed: int = 0, floor: int = 1, low: float = 0.0, strength: float = 1.0) -> Problem:
    """Log-normal importance, couplings between low * strength and strength."""
    rng = np.random.default_rng(seed)
    space = UnitSpace.of([(f"g{g}", size) for g, size in enumerate(sizes)], floor)
    squares = [np.triu(rng.uniform(low, 1, (size, size)), 1) * strength / max(size, 1) * 4 for size in sizes]
    return Problem(space, rng.lognormal(size=len(space)), tuple(c + c.T for c in squares))


def chain_cost(space: UnitSpace) -> Any:
    def cost(counts: Mapping[str, int]) -> int:
        widths = [2, *(size - counts.get(group, 0) for group, size in zip(space.groups, space.sizes, strict=True)), 3]
        return sum(9 * before * after + after for before, after in itertools.pairwise(widths))

    return cost


def every_allowed(problem: Problem, alignment: Alignment) -> NDArray[np.bool_]:
    """Every x of allowed counts."""
    blocks = []
    for size, counts in zip(problem.space.sizes, alignment.allowed, strict=True):
        rows = np.array(list(itertools.product([False, True], repeat=size)))
        blocks.append(rows[np.isin(rows.sum(1), counts)])
    places = np.indices([len(rows) for rows in blocks]).reshape(len(blocks), -1)
    return np.concatenate([rows[place] for rows, place in zip(blocks, places, strict=True)], 1)


def check(problem: Problem, budget: Budget, align: int, result: SearchResult) -> None:
    """What every aligned result promises."""
    x = result.selection.x
    assert Alignment(problem.space, align).allows(problem.space.counts(x))
    assert result.energy == float(problem.energy(x))
    assert result.energy <= result.greedy_energy
    assert result.asked == budget.target <= result.capacity == int(budget.capacity(problem.space.counts(x)))


@pytest.mark.parametrize("low", [0.0, -1.0])
@pytest.mark.parametrize(("sizes", "align"), [((7, 6), 3), ((8, 5, 2), 4), ((5, 5, 4), 2), ((8, 8), 8)])
def test_counts_are_met_by_the_smallest_feasible_sum_with_the_least_energy(
    sizes: tuple[int, ...], align: int, low: float
) -> None:
    problem = instance(sizes, seed=len(sizes), low=low)
    alignment = Alignment(problem.space, align)
    x = every_allowed(problem, alignment)
    energies, sums = problem.energy(x), x.sum(1)
    for target in range(int(alignment.most.sum()) + 1):
        budget = CountBudget(problem.space, target)
        result = to_capacity(problem, budget, SOLVERS["exact"], seed=0, reads=16, rounds=6, align=align)
        check(problem, budget, align, result)
        assert result.capacity == sums[sums >= target].min()
        assert result.energy == pytest.approx(energies[sums == result.capacity].min(), abs=1e-9)


@pytest.mark.parametrize("combinations", [0, search_blocks.COMBINATIONS])
def test_costs_are_reached_with_the_least_energy(combinations: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_blocks, "COMBINATIONS", combinations)
    gaps = []
    for seed in range(3):
        problem = instance((6, 5, 4), seed)
        alignment = Alignment(problem.space, 2)
        cost = chain_cost(problem.space)
        x = every_allowed(problem, alignment)
        energies = problem.energy(x)
        capacities = CostBudget(problem.space, "params", cost, 0).capacity(
            np.array(list(itertools.product(*alignment.allowed)))
        )
        counts = problem.space.counts(x)
        for target in np.linspace(1, capacities.max(), 8).astype(int).tolist():
            budget = CostBudget(problem.space, "params", cost, target)
            result = to_capacity(problem, budget, SOLVERS["exact"], seed=0, reads=16, rounds=6, align=2)
            check(problem, budget, 2, result)
            grid = dict(zip(itertools.product(*alignment.allowed), (capacities >= target).tolist(), strict=True))
            best = energies[[grid[tuple(row)] for row in counts.tolist()]].min()
            gaps.append((result.energy - best) / best)
    assert np.median(gaps) < 1e-9
    assert max(gaps) < (1e-9 if combinations else 0.1)


def test_enumeration_and_descent_over_blocks_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Descent must find the enumerated optimum of the same profiles nearly always, where couplings rule."""
    found: dict[int, list[float]] = {}
    for combinations in (10**6, 0):
        monkeypatch.setattr(search_blocks, "COMBINATIONS", combinations)
        for seed in range(12):
            problem = instance((32, 32, 24, 48, 32, 16), seed, strength=0.5)
            cost = chain_cost(problem.space)
            alignment, profiles = Alignment(problem.space, 8), greedy_profiles(problem)
            budget = CostBudget(problem.space, "macs", cost, cost({}) * (seed % 4 + 2) // 8)
            counts = search_blocks.allocate_blocks(profiles, budget, alignment)
            assert alignment.allows(counts)
            assert budget.capacity(counts) >= budget.target
            energy = sum(float(profile.energies[k]) for profile, k in zip(profiles, counts.tolist(), strict=True))
            found.setdefault(combinations, []).append(energy)
    ratios = np.divide(found[0], found[10**6])
    assert (ratios > 1 - 1e-12).all()
    assert (ratios < 1 + 1e-9).sum() >= 9
    assert ratios.max() < 1.02


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_promises_hold_for_any_sizes_and_alignment(data: st.DataObject) -> None:
    sizes = tuple(data.draw(st.lists(st.integers(1, 14), min_size=1, max_size=6)))
    align = data.draw(st.integers(2, 10))
    low, strength = data.draw(st.sampled_from([(0.0, 1.0), (-1.0, 1.0), (-1.0, -3.0), (0.0, 0.0)]))
    problem = instance(sizes, data.draw(st.integers(0, 99)), data.draw(st.integers(0, 5)), low, strength)
    alignment, cost = Alignment(problem.space, align), chain_cost(problem.space)
    reachable = int(CostBudget(problem.space, "macs", cost, 0).capacity(alignment.most))
    budget: Budget = (
        CountBudget(problem.space, data.draw(st.integers(0, int(alignment.most.sum()))))
        if data.draw(st.booleans())
        else CostBudget(problem.space, "macs", cost, data.draw(st.integers(0, reachable)))
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search_blocks, "COMBINATIONS", data.draw(st.sampled_from([0, 2048])))
        result = to_capacity(
            problem, budget, SOLVERS["steepest"], seed=data.draw(st.integers(0, 5)), reads=2, rounds=2, align=align
        )
    check(problem, budget, align, result)
    counts = problem.space.counts(result.selection.x)
    if not budget.counts_units:  # no block is pruned that the target can do without
        for group, allowed in enumerate(alignment.allowed):
            if place := allowed.index(counts[group]):
                fewer = counts.copy()
                fewer[group] = allowed[place - 1]
                assert budget.capacity(fewer) < budget.target


def test_without_couplings_a_count_is_exact_and_no_backend_runs() -> None:
    def never(bqm: dimod.BinaryQuadraticModel, *, reads: int, seed: int) -> dimod.SampleSet:
        raise AssertionError("called")

    problem = instance((24, 16, 32), strength=0.0)
    for target, reached in ((0, 0), (1, 8), (17, 24), (32, 32), (48, 48)):
        result = to_capacity(problem, CountBudget(problem.space, target), never, seed=0, align=8)
        assert (result.asked, result.capacity, result.hit, result.trace) == (target, reached, True, ())
        options = itertools.product(*Alignment(problem.space, 8).allowed)
        best = min(
            sum(float(np.sort(problem.linear[span])[:k].sum()) for span, k in zip(problem.space.spans, ks, strict=True))
            for ks in options
            if sum(ks) == reached
        )
        assert result.energy == pytest.approx(best)


def test_an_alignment_of_one_changes_nothing() -> None:
    problem = instance((12, 9, 15), seed=3)
    for budget in (CountBudget(problem.space, 17), CostBudget(problem.space, "params", chain_cost(problem.space), 1000)):
        plain = to_capacity(problem, budget, SOLVERS["neal"], seed=1, reads=4, rounds=3)
        assert repr(to_capacity(problem, budget, SOLVERS["neal"], seed=1, reads=4, rounds=3, align=1)) == repr(plain)


def test_the_backend_improves_on_greedy_where_redundancy_rules() -> None:
    problem = instance((64,) * 6, seed=1, low=-1.0, strength=10.0)
    budget = CountBudget(problem.space, 192)
    result = to_capacity(problem, budget, SOLVERS["neal"], seed=0, align=16)
    check(problem, budget, 16, result)
    assert result.energy < result.greedy_energy - 1e-6
    assert len(result.trace) == 8


def run_once() -> str:
    problem = instance((12, 20, 9), seed=8)
    cost = chain_cost(problem.space)
    budgets: tuple[Budget, ...] = (CountBudget(problem.space, 18), CostBudget(problem.space, "params", cost, 1500))
    return repr([to_capacity(problem, b, SOLVERS["neal"], seed=5, reads=3, rounds=3, align=4) for b in budgets])


def test_same_seed_same_result_in_every_process() -> None:
    code = "import runpy, sys; print(runpy.run_path(sys.argv[1])['run_once']())"
    command = [sys.executable, "-c", code, __file__]
    elsewhere = subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": "7"}, capture_output=True, text=True, check=True)
    assert elsewhere.stdout.strip() == run_once()


def test_bad_arguments() -> None:
    problem = instance((16, 16))
    with pytest.raises(UsageError, match="align is 0, expected at least 1"):
        to_capacity(problem, CountBudget(problem.space, 2), SOLVERS["neal"], 0, align=0)
    with pytest.raises(UsageError, match=r"the maximum sparsity is 0\.5000"):
        to_capacity(problem, CountBudget(problem.space, 17), SOLVERS["neal"], 0, align=16)
