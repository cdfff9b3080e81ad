"""Units that are held: they go again in every selection that can have them."""

from __future__ import annotations

import numpy as np
import pytest

from qcompress.alignment import Alignment
from qcompress.budgets import budget
from qcompress.problem import Problem, holding
from qcompress.search import to_capacity
from qcompress.selection import UnitSpace
from qcompress.solvers.profile import Profiles

SPACE = UnitSpace.of([("a", 9), ("b", 6), ("c", 3)])


def random_problem(seed: int, *, cross: bool = False) -> Problem:
    rng = np.random.default_rng(seed)
    couplings = []
    for size in SPACE.sizes:
        c = rng.normal(size=(size, size))
        c = c + c.T
        np.fill_diagonal(c, 0)
        couplings.append(c)
    joined = None
    if cross:
        joined = rng.normal(size=(18, 18)) * 0.3
        joined = joined + joined.T
        for span in SPACE.spans:
            joined[span, span] = 0
    return Problem(SPACE, rng.normal(size=18), tuple(couplings), joined)


@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_what_is_held_is_pruned_in_every_larger_selection(seed: int, cross: bool) -> None:
    problem = random_problem(seed, cross=cross)
    held = np.zeros(18, bool)
    held[np.random.default_rng(50 + seed).choice([0, 1, 2, 3, 9, 10, 11, 15], 4, replace=False)] = True
    for count in (4, 6, 9):
        filters = budget("filters", count / 18, SPACE, lambda _: 1, lambda _: 1)
        found = to_capacity(holding(problem, held), filters, Profiles(), 0).selection.x
        assert found.sum() == count
        assert (found >= held).all()
    params = budget("params", 0.4, SPACE, lambda counts: 180 - sum(10 * k for k in counts.values()), lambda _: 1)
    assert (to_capacity(holding(problem, held), params, Profiles(), 0).selection.x >= held).all()


def test_among_selections_that_hold_them_energies_differ_as_before() -> None:
    problem = random_problem(0)
    held = np.zeros(18, bool)
    held[[1, 9]] = True
    one, other = held.copy(), held.copy()
    one[3], other[4] = True, True
    changed = holding(problem, held)
    difference = problem.energy(one) - problem.energy(other)
    assert float(changed.energy(one) - changed.energy(other)) == pytest.approx(float(difference))
    assert changed.couplings is problem.couplings


def test_allowed_counts_may_force_some_back() -> None:
    held = np.zeros(18, bool)
    held[[0, 1, 2, 9, 15]] = True
    alignment = Alignment(SPACE, 4)
    filters = budget("filters", 5 / 18, SPACE, lambda _: 1, lambda _: 1)
    found = to_capacity(holding(random_problem(1), held), filters, Profiles(), 0, align=alignment).selection
    counts = SPACE.counts(found.x)
    assert alignment.allows(counts)
    for span, count in zip(SPACE.spans, counts.tolist(), strict=True):
        assert found.x[span][held[span]].sum() == min(count, held[span].sum())


def test_of_nothing_held_nothing_changes() -> None:
    problem = random_problem(2)
    assert np.array_equal(holding(problem, np.zeros(18, bool)).linear, problem.linear)
