"""Elimination against brute force: a cost is what an explicit refit of the others loses."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from reconstructing import random_problem

from qcompress.reconstruction.elimination import STEPS, eliminate
from qcompress.reconstruction.parts import Part


def schur(part: Part, columns: list[int]) -> float:
    """|B_S' (P_SS)^-1 B_S|."""
    held, block = part.targets[columns], part.inverse[columns][:, columns]
    return float((held * torch.linalg.solve(block, held)).sum())


@pytest.mark.parametrize("seed", range(4))
def test_the_loss_of_the_first_k_is_that_of_a_refit_and_the_schur_complement(seed: int) -> None:
    problem = random_problem(seed, sizes=(5, 4), width=2)
    for group, size in enumerate((5, 4)):
        order, losses = eliminate(problem.seeing(group), group, size, size - 1)
        assert len(set(order.tolist())) == size - 1
        assert losses[0] == 0
        for count in range(size):
            x = np.zeros(9, bool)
            x[5 * group + order[:count]] = True
            assert losses[count] == pytest.approx(problem.refitted(x), rel=1e-9, abs=1e-12)
            gone = [part.columns[group][order[:count]].flatten().tolist() for part in problem.seeing(group)]
            formula = sum(schur(part, columns) for part, columns in zip(problem.seeing(group), gone, strict=True) if columns)
            assert losses[count] == pytest.approx(formula, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_each_unit_that_leaves_is_the_cheapest_of_those_left(seed: int) -> None:
    problem = random_problem(seed, sizes=(6,), width=1)
    order, losses = eliminate(problem.parts, 0, 6, 6)
    gone: list[int] = []
    for count, unit in enumerate(order.tolist(), 1):
        rises = {other: problem.refitted(flags(6, [*gone, other])) for other in range(6) if other not in gone}
        assert rises[unit] == pytest.approx(min(rises.values()), rel=1e-9)
        gone.append(unit)
        assert losses[count] == pytest.approx(rises[unit], rel=1e-9)
    first = min(problem.refitted(flags(6, [unit])) for unit in range(6))
    assert losses[1] == pytest.approx(first, rel=1e-9)
    every = [problem.refitted(flags(6, list(some))) for some in itertools.combinations(range(6), 3)]
    assert losses[3] >= min(every) * (1 - 1e-9)


def test_of_two_alike_units_one_is_cheap_and_both_are_dear() -> None:
    problem = random_problem(3, sizes=(4,), width=1, twins=(1, 2), ridge=1e-9)
    order, losses = eliminate(problem.parts, 0, 4, 4)
    alone = [problem.refitted(flags(4, [unit])) for unit in range(4)]
    both = problem.refitted(flags(4, [1, 2]))
    assert order[0] in (1, 2)
    assert losses[1] < 1e-6 * both
    assert alone[1] < 1e-6 * both
    assert alone[2] < 1e-6 * both
    dear = order.tolist().index(3 - int(order[0]))
    assert losses[dear + 1] - losses[dear] > 0.1 * both


def test_a_group_that_nobody_sees_loses_nothing_and_leaves_in_order() -> None:
    order, losses = eliminate([], 0, 4, 3)
    assert order.tolist() == [0, 1, 2]
    assert losses.tolist() == [0, 0, 0, 0]


def test_a_group_of_one_unit_that_stays_has_the_empty_order() -> None:
    problem = random_problem(0, sizes=(1, 3), width=1)
    order, losses = eliminate(problem.seeing(0), 0, 1, 0)
    assert len(order) == 0
    assert losses.tolist() == [0.0]


def test_several_at_a_time_cost_what_they_cost_in_their_order() -> None:
    size = 2 * STEPS + 1
    problem = random_problem(1, sizes=(size,), width=1, rows=2 * size, ridge=1e-2)
    order, losses = eliminate(problem.parts, 0, size, 8)
    assert (np.diff(losses) >= 0).all()
    for count in (1, 2, 5, 8):
        assert losses[count] == pytest.approx(problem.refitted(flags(size, order[:count].tolist())), rel=1e-6)


def flags(size: int, units: list[int]) -> NDArray[np.bool_]:
    x = np.zeros(size, bool)
    x[units] = True
    return x


def test_the_oracle_loses_nothing_where_nothing_goes() -> None:
    problem = random_problem(5, sizes=(3,), width=2)
    assert problem.refitted(flags(3, [])) == pytest.approx(0.0, abs=1e-12)
    assert problem.refitted(flags(3, [0, 1, 2])) > problem.refitted(flags(3, [0])) > 0
