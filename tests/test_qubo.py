from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qcompress.errors import UsageError
from qcompress.qubo import OBJECTIVES, Hybrid, L1Qubo, Magnitude, Problem, Random, Taylor, formulate, objective
from qcompress.scores import Scores
from qcompress.selection import Unit, UnitSpace

SPACE = UnitSpace.of([("a", 3), ("b", 4), ("c", 1)])


def scores(seed: int = 0, space: UnitSpace = SPACE) -> Scores:
    rng = np.random.default_rng(seed)
    n = len(space)
    similarity = []
    for size in space.sizes:
        s = np.corrcoef(rng.normal(size=(size, 5))).reshape(size, size)
        similarity.append((s + s.T) / 2)
    vectors = rng.random(n), rng.random(n), rng.random(n)
    return Scores(space, *vectors, tuple(similarity), rng.normal(size=(6, n)))


def every_x(n: int) -> NDArray[np.bool_]:
    return np.array(list(itertools.product([False, True], repeat=n)))


FROM_SCORES = [name for name in OBJECTIVES if name not in ("auto", "reconstruction")]


@pytest.mark.parametrize("name", FROM_SCORES)
def test_energies_agree_with_the_sum_and_with_dimod(name: str) -> None:
    problem = formulate(objective(name), scores())
    x = every_x(len(SPACE))
    bqm = problem.to_bqm(gamma=0.7, weights=np.arange(1.0, 9.0))
    assert list(bqm.variables) == list(SPACE.units)
    assert all(isinstance(variable, Unit) for variable in bqm.variables)
    by_dimod = bqm.energies((x.astype(np.int8), list(SPACE.units))) + 0.7 * x @ np.arange(1.0, 9.0)
    np.testing.assert_allclose(problem.energy(x), by_dimod, rtol=1e-12, atol=1e-12)
    by_hand = x[77] @ problem.linear
    for span, c in zip(SPACE.spans, problem.couplings, strict=True):
        by_hand += sum(c[i, j] for i, j in itertools.combinations(np.flatnonzero(x[77][span]), 2))
    if problem.cross is not None:
        by_hand += sum(problem.cross[i, j] for i, j in itertools.combinations(np.flatnonzero(x[77]), 2))
    assert problem.energy(x[77]) == pytest.approx(by_hand)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 100), st.integers(0, 255))
def test_marginals_are_energy_changes_of_flips(seed: int, number: int) -> None:
    problem = formulate(Hybrid(beta_off=0.1, similarity=2.0), scores(seed))
    x = every_x(len(SPACE))[number]
    flips = np.array([problem.energy(x ^ (np.arange(len(x)) == i)) for i in range(len(x))])
    np.testing.assert_allclose(problem.marginals(x), flips - problem.energy(x), atol=1e-12)


def test_hybrid_has_the_terms_of_the_paper() -> None:
    given_scores = scores(3)
    problem = formulate(Hybrid(2.0, 3.0, 0.5, 0.25, 0.7), given_scores)
    a, s = given_scores.magnitude, given_scores.similarity
    a_scale = np.mean(a**2)
    s_scale = np.mean([sum(max(0.0, b[i, j]) for j in range(len(b)) if j != i) for b in s for i in range(len(b))])
    taylor, fisher = given_scores.taylor / given_scores.taylor.mean(), given_scores.fisher / given_scores.fisher.mean()
    np.testing.assert_allclose(problem.linear, 0.5 * a**2 / a_scale + 2 * taylor + 3 * fisher)
    assert problem.couplings[1][0, 2] == pytest.approx(2 * 0.25 * a[3] * a[5] / a_scale + 0.7 * max(0, s[1][0, 2]) / s_scale)


def test_l1_qubo_is_the_squared_sum_per_group() -> None:
    given_scores = scores(1)
    problem = formulate(L1Qubo(), given_scores)
    x = every_x(len(SPACE))
    squares = sum((x[:, span] @ given_scores.magnitude[span]) ** 2 for span in SPACE.spans)
    np.testing.assert_allclose(problem.energy(x), squares / np.mean(given_scores.magnitude**2), atol=1e-12)
    assert problem.sign == "nonnegative"
    assert not problem.separable_linear


def test_scores_of_all_zero_stay_zero() -> None:
    n = len(SPACE)
    nothing = Scores(SPACE, np.zeros(n), np.zeros(n), np.zeros(n), tuple(np.eye(size) for size in SPACE.sizes))
    problem = formulate(Hybrid(1, 1, 1, 1, 1), nothing)
    assert not problem.linear.any()
    assert problem.separable_linear
    assert problem.sign == "none"


def test_greedy_objectives_rank_by_their_score() -> None:
    given_scores = scores(5)
    for chosen, values in ((Taylor(), given_scores.taylor), (Magnitude(), given_scores.magnitude)):
        problem = formulate(chosen, given_scores)
        assert problem.separable_linear
        assert problem.linear.mean() == pytest.approx(1)
        assert np.argsort(problem.linear).tolist() == np.argsort(values).tolist()


def test_random_depends_on_its_seed_alone() -> None:
    assert formulate(Random(1), scores(0)).linear.tolist() == formulate(Random(1), scores(9)).linear.tolist()
    assert formulate(Random(1), scores(0)).linear.tolist() != formulate(Random(2), scores(0)).linear.tolist()


def test_signs() -> None:
    space = UnitSpace.of([("a", 2), ("b", 2)])
    up = np.array([[0.0, 1.0], [1.0, 0.0]])
    signs = [Problem(space, np.zeros(4), (a * up, b * up)).sign for a, b in ((0, 0), (1, 0), (0, -1), (1, -1))]
    assert signs == ["none", "nonnegative", "nonpositive", "mixed"]


def test_space_without_units() -> None:
    empty = UnitSpace.of([])
    problem = formulate(Hybrid(), scores(0, empty))
    assert problem.energy(np.zeros(0)) == 0
    assert len(problem.to_bqm(1.0).variables) == 0


@pytest.mark.parametrize("wrong", [np.eye(2), np.array([[0.0, 1.0], [2.0, 0.0]]), np.array([[0.0, np.nan], [np.nan, 0.0]])])
def test_couplings_are_checked(wrong: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match="couplings of group a"):
        Problem(UnitSpace.of([("a", 2)]), np.zeros(2), (wrong,))


def test_bad_names_and_coefficients() -> None:
    with pytest.raises(UsageError, match=r"'l2' is unknown, expected one of auto, reconstruction, hybrid, l1-qubo"):
        objective("l2")
    with pytest.raises(UsageError, match=r"objective taylor has no coefficient 'alpha'"):
        objective("taylor", alpha=1.0)
    with pytest.raises(UsageError, match=r"hybrid: similarity is nan, expected a finite number"):
        objective("hybrid", similarity=float("nan"))
    assert objective("hybrid", similarity=0.1, beta_off=2.0) == Hybrid(similarity=0.1, beta_off=2.0)


@pytest.mark.parametrize("name", ["auto", "reconstruction"])
def test_what_is_not_made_from_scores_says_so(name: str) -> None:
    with pytest.raises(UsageError, match=f"objective {name} "):
        formulate(objective(name), scores())
