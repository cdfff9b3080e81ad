from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp

from qcompress import search_exact
from qcompress.alignment import Alignment
from qcompress.budgets import CostBudget, CountBudget
from qcompress.problem import Problem
from qcompress.search import to_capacity
from qcompress.search_bounds import _onto, lower_bounds
from qcompress.search_exact import enumerate_profile
from qcompress.search_profiles import greedy_profiles
from qcompress.selection import UnitSpace
from qcompress.solvers import Profiles

SIGNS = pytest.mark.parametrize("sign", [(0.0, 1.0), (-1.0, 0.0), (-1.0, 1.0)], ids=["nonnegative", "nonpositive", "mixed"])


def instance(sizes: tuple[int, ...], sign: tuple[float, float], seed: int, floor: int = 1, density: float = 1.0) -> Problem:
    rng = np.random.default_rng(seed)
    space = UnitSpace.of([(f"g{g}", size) for g, size in enumerate(sizes)], floor)
    couplings = []
    for size in sizes:
        c = np.triu(rng.uniform(*sign, (size, size)) * (rng.random((size, size)) < density), 1)
        couplings.append(c + c.T)
    return Problem(space, rng.normal(0.5, 1, len(space)), tuple(couplings))


def cost_of(space: UnitSpace) -> CostBudget:
    def cost(counts: Mapping[str, int]) -> int:
        widths = [2, *(size - counts.get(group, 0) for group, size in zip(space.groups, space.sizes, strict=True)), 3]
        return sum(9 * before * after + after for before, after in itertools.pairwise(widths))

    return CostBudget(space, "params", cost, 1)


def everything(problem: Problem) -> NDArray[np.bool_]:
    x = np.array(list(itertools.product([False, True], repeat=len(problem.space))))
    kept: NDArray[np.bool_] = x[[problem.space.allows(row) for row in x]]
    return kept


@pytest.fixture
def nothing_enumerated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_exact, "LARGEST", 0)


@SIGNS
@pytest.mark.parametrize("seed", range(4))
def test_bounds_of_a_group_are_below_its_profile_at_every_count(sign: tuple[float, float], seed: int) -> None:
    problem = instance((9,), sign, seed, floor=0)
    (exact,) = greedy_profiles(problem)
    enumerate_profile(exact)
    for k in range(10):
        (profile,) = greedy_profiles(problem)
        bounds = lower_bounds(profile, k)
        assert (bounds <= exact.energies + 1e-9).all()
        assert bounds[[0, 1, 9]] == pytest.approx(exact.energies[[0, 1, 9]], abs=0.2 * np.ptp(exact.energies))
    np.testing.assert_array_equal(lower_bounds(exact, 3), exact.energies)


@SIGNS
def test_enumerated_groups_are_proven_for_every_count(sign: tuple[float, float]) -> None:
    problem = instance((5, 4, 3), sign, 1)
    x = everything(problem)
    energies = problem.energy(x)
    for target in range(problem.space.most + 1):
        found = to_capacity(problem, CountBudget(problem.space, target), Profiles(), 0)
        assert found.certificate is not None
        assert found.certificate.bound == pytest.approx(energies[x.sum(1) == target].min(), abs=1e-9)
        assert found.certificate.gap == found.certificate.relative_gap == 0.0
        assert found.certificate.exact_groups == found.certificate.groups == 3


@SIGNS
@pytest.mark.usefixtures("nothing_enumerated")
def test_the_bound_is_never_above_the_optimum(sign: tuple[float, float]) -> None:
    for seed in range(3):
        problem = instance((5, 4, 3), sign, seed)
        x = everything(problem)
        energies = problem.energy(x)
        for target in range(problem.space.most + 1):
            found = to_capacity(problem, CountBudget(problem.space, target), Profiles(steps=20, rounds=1), 0)
            assert found.certificate is not None
            assert found.certificate.bound <= energies[x.sum(1) == target].min() + 1e-9
            assert found.certificate.exact_groups == 0


@SIGNS
@pytest.mark.parametrize("align", [1, 4])
@pytest.mark.parametrize("combinations", [0, 2048])
def test_the_bound_holds_for_costs(
    sign: tuple[float, float], align: int, combinations: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qcompress.search_certificate.COMBINATIONS", combinations)
    problem = instance((5, 4, 5), sign, 2)
    budget, alignment = cost_of(problem.space), Alignment(problem.space, align)
    x = everything(problem)
    x = x[[alignment.allows(counts) for counts in problem.space.counts(x)]]
    energies, capacities = problem.energy(x), budget.capacity(problem.space.counts(x))
    for target in np.linspace(1, capacities.max(), 7).astype(int).tolist():
        asked = CostBudget(problem.space, "params", budget.cost, target)
        found = to_capacity(problem, asked, Profiles(), 0, align=align)
        assert found.certificate is not None
        optimum = energies[capacities >= target].min()
        assert found.certificate.bound <= optimum + 1e-9
        if combinations:
            assert found.certificate.bound == pytest.approx(optimum, abs=1e-9)


def milp_optimum(problem: Problem, target: int) -> float:
    """By HiGHS, each product x_i x_j a variable of its own between max(0, x_i + x_j - 1) and min(x_i, x_j)."""
    n = len(problem.space)
    pairs = [
        (span.start + i, span.start + j, c[i, j])
        for span, c in zip(problem.space.spans, problem.couplings, strict=True)
        for i, j in zip(*np.nonzero(np.triu(c)), strict=True)
    ]
    rows, low, high = [], [], []

    def add(entries: dict[int, float], least: float, most: float) -> None:
        row = np.zeros(n + len(pairs))
        row[list(entries)] = list(entries.values())
        rows.append(row)
        low.append(least)
        high.append(most)

    add(dict.fromkeys(range(n), 1.0), target, target)
    for span, size, floor in zip(problem.space.spans, problem.space.sizes, problem.space.floors, strict=True):
        add(dict.fromkeys(range(span.start, span.stop), 1.0), 0, size - floor)
    for place, (i, j, _) in enumerate(pairs, n):
        add({place: 1.0, i: -1.0}, -np.inf, 0)
        add({place: 1.0, j: -1.0}, -np.inf, 0)
        add({place: 1.0, i: -1.0, j: -1.0}, -1, np.inf)
    objective = np.concatenate((problem.linear, [value for *_, value in pairs]))
    whole = np.concatenate((np.ones(n, np.int64), np.zeros(len(pairs), np.int64)))
    found = milp(objective, integrality=whole, bounds=Bounds(0, 1), constraints=LinearConstraint(np.array(rows), low, high))
    assert found.success
    return float(found.fun)


@SIGNS
def test_energy_and_bound_agree_with_a_mip_solver(sign: tuple[float, float]) -> None:
    problem = instance((12, 10, 14), sign, 3, density=0.25)
    optimum = milp_optimum(problem, 17)
    found = to_capacity(problem, CountBudget(problem.space, 17), Profiles(), 0)
    assert found.certificate is not None
    assert found.energy == pytest.approx(optimum, abs=1e-6)
    assert found.certificate.bound == pytest.approx(optimum, abs=1e-6)


@SIGNS
@pytest.mark.usefixtures("nothing_enumerated")
def test_without_enumeration_a_mip_solver_confirms_search_and_bound(sign: tuple[float, float]) -> None:
    problem = instance((12, 10, 14), sign, 4, density=0.25)
    optimum = milp_optimum(problem, 17)
    found = to_capacity(problem, CountBudget(problem.space, 17), Profiles(), 0)
    assert found.certificate is not None
    assert found.energy == pytest.approx(optimum, abs=1e-6)
    assert found.certificate.bound <= optimum + 1e-6
    assert found.certificate.relative_gap is not None
    assert 0 <= found.certificate.relative_gap < 0.5


def test_without_couplings_sorting_is_proven() -> None:
    rng = np.random.default_rng(0)
    space = UnitSpace.of([("a", 40), ("b", 60)])
    problem = Problem(space, rng.random(100), (np.zeros((40, 40)), np.zeros((60, 60))))
    found = to_capacity(problem, CountBudget(space, 50), Profiles(), 0)
    assert found.certificate is not None
    assert found.certificate.gap == 0.0


def test_the_projection_is_the_nearest_point_of_its_sum() -> None:
    """Shifted alike inside, less at 0, more at 1: the conditions of optimality."""
    rng = np.random.default_rng(0)
    for size in (1, 2, 5, 40):
        for k in range(size + 1):
            point = rng.normal(0.5, 1.5, size)
            found = _onto(point, k)
            assert found.sum() == pytest.approx(k, abs=1e-9)
            assert ((found >= 0) & (found <= 1)).all()
            inside = (found > 1e-9) & (found < 1 - 1e-9)
            shift = (point - found)[inside]
            level = float(shift.mean()) if inside.any() else None
            if level is not None:
                assert np.abs(shift - level).max() < 1e-9
                assert (point[found <= 1e-9] <= level + 1e-9).all()
                assert (point[found >= 1 - 1e-9] >= level + 1 - 1e-9).all()
