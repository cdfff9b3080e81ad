"""Objectives that couple units of different groups: the problem, the search on the whole energy, its bound."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from qcompress import problem as problem_module
from qcompress.alignment import Alignment
from qcompress.budgets import Budget, CostBudget, CountBudget
from qcompress.errors import UsageError
from qcompress.problem import Problem
from qcompress.qubo import Interaction, objective
from qcompress.scores import Scores
from qcompress.search import to_capacity
from qcompress.search_certificate import certify
from qcompress.search_coupled import search_coupled
from qcompress.search_profiles import greedy_profiles
from qcompress.selection import Unit, UnitSpace
from qcompress.solvers import SOLVERS


def coupled(sizes: tuple[int, ...], seed: int = 0, floor: int = 1, strength: float = 1.0) -> Problem:
    """Couplings of both signs between all units, about as large together as the linear part."""
    rng = np.random.default_rng(seed)
    space = UnitSpace.of([(f"g{g}", size) for g, size in enumerate(sizes)], floor)
    n = len(space)
    q = rng.normal(size=(n, n)) * strength / np.sqrt(max(n, 1))
    q = q + q.T
    np.fill_diagonal(q, 0)
    blocks = []
    for span in space.spans:
        blocks.append(q[span, span].copy())
        q[span, span] = 0
    return Problem(space, rng.lognormal(size=n), tuple(blocks), q)


def every_x(n: int) -> NDArray[np.bool_]:
    return np.array(list(itertools.product([False, True], repeat=n)))


def lean(budget: Budget, alignment: Alignment, counts: NDArray[np.int64]) -> bool:
    """Whether `counts` meet the budget, and no group could keep more."""
    if budget.counts_units:
        return int(counts.sum()) == budget.target
    fewer = [
        max((k for k in offer if k < at), default=at) for offer, at in zip(alignment.allowed, counts.tolist(), strict=True)
    ]
    less = [np.where(np.arange(len(counts)) == g, k, counts) for g, k in enumerate(fewer) if k != counts[g]]
    return bool(budget.capacity(counts) >= budget.target) and all(budget.capacity(row) < budget.target for row in less)


def chain(counts: Mapping[str, int]) -> int:
    """A chain of layers of 8 channels per group, between 3 and 3."""
    widths = [3, *(8 - counts.get(f"g{g}", 0) for g in range(2)), 3]
    return sum(9 * a * b for a, b in itertools.pairwise(widths))


def scores(samples: int | None, sizes: tuple[int, ...] = (4, 3, 5), seed: int = 0) -> Scores:
    rng = np.random.default_rng(seed)
    space = UnitSpace.of([(f"g{g}", size) for g, size in enumerate(sizes)])
    n = len(space)
    t = None if samples is None else rng.normal(0.2, 1, (samples, n))
    return Scores(space, np.ones(n), np.ones(n), np.ones(n), tuple(np.eye(size) for size in sizes), t)


def test_energies_agree_with_the_sum_and_with_dimod() -> None:
    problem = coupled((3, 4, 2))
    x = every_x(9)
    q = problem.matrix()
    by_hand = np.array(
        [row @ problem.linear + sum(q[i, j] for i, j in itertools.combinations(np.flatnonzero(row), 2)) for row in x]
    )
    np.testing.assert_allclose(problem.energy(x), by_hand, atol=1e-12)
    bqm = problem.to_bqm(0.7, np.arange(1.0, 10.0))
    assert all(isinstance(variable, Unit) for variable in bqm.variables)
    by_dimod = bqm.energies((x.astype(np.int8), list(problem.space.units))) + 0.7 * x @ np.arange(1.0, 10.0)
    np.testing.assert_allclose(by_dimod, by_hand, atol=1e-12)
    flips = np.array([problem.energy(x[77] ^ (np.arange(9) == i)) for i in range(9)])
    np.testing.assert_allclose(problem.marginals(x[77]), flips - problem.energy(x[77]), atol=1e-12)
    assert (problem.separable, problem.inside.separable, problem.sign) == (False, True, "mixed")


def test_cross_couplings_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    space, blocks = UnitSpace.of([("a", 2), ("b", 1)]), (np.zeros((2, 2)), np.zeros((1, 1)))
    inside = np.zeros((3, 3))
    inside[0, 1] = inside[1, 0] = 1.0
    for wrong in (np.zeros((2, 2)), np.triu(np.ones((3, 3)), 1), np.full((3, 3), np.nan)):
        with pytest.raises(ValueError, match="cross must be a finite, symmetric array of 3 by 3"):
            Problem(space, np.zeros(3), blocks, wrong)
    with pytest.raises(ValueError, match="zero inside groups, it is not in group a"):
        Problem(space, np.zeros(3), blocks, inside)
    assert Problem(space, np.zeros(3), blocks, np.zeros((3, 3))).separable
    monkeypatch.setattr(problem_module, "LARGEST_CROSS", 2)
    with pytest.raises(UsageError, match="between groups of 3 units, expected at most 2"):
        Problem(space, np.zeros(3), blocks, np.zeros((3, 3)))


@pytest.mark.parametrize("backend", list(SOLVERS))
def test_every_count_is_met_with_the_least_energy(backend: str) -> None:
    for seed in range(3):
        problem = coupled((5, 4, 3), seed, strength=1 + seed)
        x = every_x(12)
        x = x[(problem.space.counts(x) <= np.subtract(problem.space.sizes, problem.space.floors)).all(1)]
        energies = problem.energy(x)
        for target in range(problem.space.most + 1):
            result = to_capacity(problem, CountBudget(problem.space, target), SOLVERS[backend], 3, reads=4, rounds=3)
            assert problem.space.allows(result.selection.x)
            assert result.capacity == target
            assert result.energy == float(problem.energy(result.selection.x))
            assert result.energy == pytest.approx(energies[x.sum(1) == target].min(), abs=1e-9)
            assert result.greedy_energy >= result.energy
            assert result.certificate is not None
            assert result.certificate.bound <= energies[x.sum(1) == target].min() + 1e-9
            assert result.certificate.exact_groups == 0


@pytest.mark.parametrize("align", [1, 4])
def test_costs_and_alignments_keep_the_budget_with_nearly_the_least_energy(align: int) -> None:
    gaps = []
    for seed in range(4):
        problem = coupled((8, 8), seed, strength=2.0)
        alignment = Alignment(problem.space, align)
        x = every_x(16)
        counts = problem.space.counts(x)
        allowed = np.isin(counts, alignment.allowed[0]).all(1)
        x, counts = x[allowed], counts[allowed]
        energies = problem.energy(x)
        budgets: list[Budget] = [CountBudget(problem.space, 8)]
        budgets += [CostBudget(problem.space, "macs", chain, chain({}) * share // 8) for share in (2, 4)]
        for budget in budgets:
            result = to_capacity(problem, budget, SOLVERS["profile"], 0, align=align)
            found = problem.space.counts(result.selection.x)
            pairs, place = np.unique(counts, axis=0, return_inverse=True)
            meets = np.array([lean(budget, alignment, pair) for pair in pairs])[place]
            assert alignment.allows(found)
            assert result.capacity == int(budget.capacity(found))
            assert result.capacity == budget.target if budget.counts_units else result.capacity >= budget.target
            assert lean(budget, alignment, found)
            best = energies[meets].min()
            assert result.certificate is not None
            assert result.certificate.bound <= best + 1e-9
            gaps.append((result.energy - best) / energies[meets].std())
    assert min(gaps) > -1e-9
    assert np.mean(np.array(gaps) < 1e-9) >= 0.75
    assert max(gaps) < 0.5


@pytest.mark.parametrize("counts", [True, False])
def test_never_worse_than_greedy_and_the_same_for_a_seed(counts: bool) -> None:
    problem = coupled((20, 16, 12), 5, strength=3.0)
    budget: Budget = CountBudget(problem.space, 24)
    if not counts:
        budget = CostBudget(problem.space, "params", lambda c: 100 * (48 - sum(c.values())), 2350)
    results = [to_capacity(problem, budget, SOLVERS["neal"], 7, reads=4, rounds=3) for _ in range(2)]
    assert results[0].selection == results[1].selection
    assert results[0].energy <= results[0].greedy_energy
    assert len(results[0].trace) == 3
    alignment = Alignment(problem.space)
    wild = [np.ones(48, bool), np.zeros(48, bool)]  # starts need not meet the budget, nor keep the floors
    found = search_coupled(problem, budget, alignment, wild, 0)
    assert problem.space.allows(found)
    assert budget.capacity(problem.space.counts(found)) >= budget.target
    separable = to_capacity(problem.inside, budget, SOLVERS["profile"], 0).selection.x
    assert problem.energy(found) < problem.energy(separable)


def test_the_bound_takes_no_more_of_the_couplings_than_the_count_allows() -> None:
    problem = coupled((4, 4), 1)
    x = every_x(8)
    for most in range(9):
        below = problem.below(most).energy(x)
        few = x.sum(1) <= most
        assert (below[few] <= problem.energy(x)[few] + 1e-12).all()
    loose, tight = (
        certify(
            problem, CountBudget(problem.space, k), Alignment(problem.space), greedy_profiles(problem.inside), np.arange(8) < k
        ).gap
        for k in (3, 1)
    )
    assert 0 <= tight <= loose


def test_interaction_is_the_second_order_of_the_samples_losses() -> None:
    given = scores(7)
    t = given.gradients
    assert t is not None
    problem = Interaction(first=2.0, second=0.5).problem(given)
    x = every_x(12).astype(float)
    by_hand = -2.0 * x @ t.mean(0) + 0.25 * ((x @ t.T) ** 2).mean(1)
    np.testing.assert_allclose(problem.energy(x), by_hand / np.abs(t).mean(), atol=1e-12)
    assert not problem.separable
    assert objective("interaction", second=0.5) == Interaction(second=0.5)


def test_interaction_needs_gradients_and_a_problem_that_fits() -> None:
    with pytest.raises(UsageError, match="the scores hold no gradients"):
        Interaction().problem(scores(None))
    with pytest.raises(UsageError, match="8193 units, expected at most 8192"):
        Interaction().problem(scores(1, (1,) * 8193))
    with pytest.raises(ValueError, match="gradients must be finite rows of 12 entries"):
        dataclasses.replace(scores(2), gradients=np.ones((2, 3)))


def test_problems_without_units_or_choice() -> None:
    nothing = Problem(UnitSpace.of([]), np.zeros(0), (), np.zeros((0, 0)))
    assert nothing.separable
    assert to_capacity(nothing, CountBudget(nothing.space, 0), SOLVERS["profile"], 0).capacity == 0
    whole = coupled((2, 2))
    assert len(to_capacity(whole, CountBudget(whole.space, 0), SOLVERS["profile"], 0).selection) == 0
