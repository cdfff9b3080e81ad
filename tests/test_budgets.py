from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompress.budgets import Budget, CostBudget, CountBudget, budget
from qcompress.errors import UsageError
from qcompress.selection import UnitSpace

SPACE = UnitSpace.of([("a", 6), ("b", 4), ("c", 5)], floor=1)


def params(counts: Mapping[str, int]) -> int:
    """A chain of three layers behind one input channel and before one output: products of neighbouring widths."""
    widths = [1, *(size - counts.get(group, 0) for group, size in zip(SPACE.groups, SPACE.sizes, strict=True)), 1]
    return sum(9 * before * after for before, after in itertools.pairwise(widths))


def of(name: str, sparsity: float) -> Budget:
    return budget(name, sparsity, SPACE, params, lambda counts: 100 * params(counts))


@pytest.mark.parametrize(("sparsity", "target"), [(0.0, 0), (0.1, 2), (0.3, 5), (0.5, 8), (0.8, 12)])
def test_filters_round_half_up(sparsity: float, target: int) -> None:
    assert of("filters", sparsity).target == target  # 0.1 * 15 = 1.5 and 0.3 * 15 = 4.5 are halves


def test_filters_read_sparsity_as_a_decimal() -> None:
    space = UnitSpace.of([("a", 100)])
    assert 0.145 * 100 < 14.5  # what binary arithmetic would make of it
    assert budget("filters", 0.145, space, params, params).target == 15


@pytest.mark.parametrize("name", ["params", "macs"])
def test_cost_targets_are_the_least_whole_numbers_that_reach_the_share(name: str) -> None:
    dense = params({}) * (100 if name == "macs" else 1)
    for sparsity in (0.0, 0.1, 0.333, 0.5, 0.9):
        target = of(name, sparsity).target
        assert target == math.ceil(sparsity * dense) or math.isclose(target, sparsity * dense)


@pytest.mark.parametrize("name", ["filters", "params", "macs"])
@pytest.mark.parametrize("sparsity", [-1.0, 1.0, math.nan, math.inf, -0.001])
def test_sparsity_outside_its_range(name: str, sparsity: float) -> None:
    with pytest.raises(UsageError, match=r"expected 0 <= sparsity < 1"):
        of(name, sparsity)


@pytest.mark.parametrize("name", ["filters", "params", "macs"])
def test_beyond_the_feasible_the_maximum_is_named_and_works(name: str) -> None:
    with pytest.raises(UsageError, match="the maximum is") as caught:
        of(name, 0.999)
    largest = float(caught.value.message.split("the maximum is ")[1].split(",")[0])
    reached = of(name, largest)
    assert reached.target <= reached.capacity(np.subtract(SPACE.sizes, SPACE.floors))
    with pytest.raises(UsageError, match="the maximum is"):
        of(name, largest + (1 / len(SPACE) if name == "filters" else 0.001))


def test_unknown_name() -> None:
    with pytest.raises(UsageError, match=r"'latency' is unknown, expected one of filters, params, macs"):
        of("latency", 0.5)


@pytest.mark.parametrize("target", [-1, 13])
def test_target_outside_its_range(target: int) -> None:
    with pytest.raises(UsageError, match=rf"{target} units are to go, expected 0 to 12"):
        CountBudget(SPACE, target)
    with pytest.raises(UsageError, match="are to go"):
        CostBudget(SPACE, "params", params, 10**6)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=4))
def test_capacity_is_exact_for_one_and_many(rows: list[tuple[int, int, int]]) -> None:
    cost = CostBudget(SPACE, "params", params, 1)
    expected = [params({}) - params(dict(zip("abc", row, strict=True))) for row in rows]
    assert cost.capacity(rows).tolist() == expected
    assert [int(cost.capacity(row)) for row in rows] == expected
    assert CountBudget(SPACE, 1).capacity(rows).tolist() == [sum(row) for row in rows]


@settings(deadline=None)
@given(st.tuples(st.integers(0, 6), st.integers(0, 4), st.integers(0, 5)))
def test_marginals_are_differences(counts: tuple[int, int, int]) -> None:
    cost = CostBudget(SPACE, "params", params, 1)
    for group, marginal in enumerate(cost.marginals(counts).tolist()):
        step = -1 if counts[group] == SPACE.sizes[group] else 1
        other = [k + step * (g == group) for g, k in enumerate(counts)]
        assert marginal == abs(int(cost.capacity(other)) - int(cost.capacity(counts)))


def test_weights_are_what_a_unit_frees_alone() -> None:
    weights = CostBudget(SPACE, "params", params, 1).weights()
    assert weights.tolist() == [9 * (1 + 4)] * 6 + [9 * (6 + 5)] * 4 + [9 * (4 + 1)] * 5
    assert CountBudget(SPACE, 1).weights().tolist() == [1.0] * 15


def test_a_group_that_frees_nothing_is_named() -> None:
    free = CostBudget(SPACE, "params", lambda counts: 10 - counts.get("a", 0), 1)
    with pytest.raises(UsageError, match=r"a unit of group b frees 0 parameters"):
        free.weights()


def in_blocks(counts: Mapping[str, int], block: int = 4) -> int:
    """As `params`, of channels in whole blocks."""
    widths = [1, *(size - counts.get(group, 0) for group, size in zip(SPACE.groups, SPACE.sizes, strict=True)), 1]
    return sum(before * after for before, after in itertools.pairwise([-(-w // block) * block for w in widths]))


def test_marginals_of_a_cost_in_blocks_are_means_over_a_block() -> None:
    cost = CostBudget(SPACE, "macs", in_blocks, 1, 4)
    dense, fewer = in_blocks({}), in_blocks({"a": 4})
    assert in_blocks({"a": 1}) == dense  # 6 and 5 channels are 8
    assert cost.marginals([0, 0, 0])[0] == (dense - fewer) / 4
    assert (cost.weights() > 0).all()
    assert cost.marginals([6, 4, 5]).shape == (3,)


def test_the_relaxed_budget_is_met_wherever_the_budget_is_and_adds_up() -> None:
    def cost(counts: Mapping[str, int]) -> int:  # a layer behind the concatenation of a and b
        return 10 * -(-(10 - counts.get("a", 0) - counts.get("b", 0)) // 4) * 4 + 3 * -(-(5 - counts.get("c", 0)) // 4) * 4

    def lower(counts: Mapping[str, int]) -> int:
        return 10 * (10 - counts.get("a", 0) - counts.get("b", 0)) + 3 * -(-(5 - counts.get("c", 0)) // 4) * 4

    exact = CostBudget(SPACE, "macs", cost, 80, 4, lower)
    relaxed = exact.relaxed
    every = np.array(list(itertools.product(range(6), range(4), range(5))))
    alone = [relaxed.capacity(every * (np.arange(3) == g)) for g in range(3)]
    assert (relaxed.capacity(every) <= sum(alone)).all()
    assert (exact.capacity(every) > sum(exact.capacity(every * (np.arange(3) == g)) for g in range(3))).any()
    meets = exact.capacity(every) >= exact.target
    assert meets.any()
    assert (relaxed.capacity(every)[meets] >= relaxed.target).all()
    assert CountBudget(SPACE, 3).relaxed == CountBudget(SPACE, 3)
    assert CostBudget(SPACE, "params", params, 5).relaxed == CostBudget(SPACE, "params", params, 5)


@given(st.sampled_from(["filters", "params", "macs"]), st.floats(0, 1), st.floats(0, 1))
def test_a_part_is_a_share_of_the_target_and_otherwise_the_same(name: str, one: float, other: float) -> None:
    whole = of(name, 0.5)
    less, more = sorted((one, other))
    assert whole.part(0).target == 0
    assert whole.part(1).target == whole.target
    assert 0 <= whole.part(less).target <= whole.part(more).target <= whole.target
    assert abs(whole.part(one).target - one * whole.target) <= 0.5
    assert (whole.part(one).name, whole.part(one).space) == (whole.name, whole.space)
    assert np.array_equal(whole.part(one).capacity((1, 2, 3)), whole.capacity((1, 2, 3)))
