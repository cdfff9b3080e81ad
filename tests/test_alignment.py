from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompress.alignment import Alignment, aligned_budget
from qcompress.budgets import CostBudget, CountBudget
from qcompress.errors import UsageError
from qcompress.selection import UnitSpace


def spaces() -> st.SearchStrategy[UnitSpace]:
    def build(pairs: list[tuple[int, int]]) -> UnitSpace:
        sizes = tuple(size for size, _ in pairs)
        return UnitSpace(tuple(f"g{g}" for g in range(len(pairs))), sizes, tuple(min(pair) for pair in pairs))

    return st.lists(st.tuples(st.integers(0, 40), st.integers(0, 20)), max_size=4).map(build)


@pytest.mark.parametrize(
    ("size", "align", "kept"),
    [
        (64, 16, [64, 48, 32, 16]),
        (60, 16, [60, 48, 32, 16]),
        (17, 16, [17, 16]),
        (16, 16, [16, 8]),
        (9, 16, [9, 8]),
        (8, 16, [8, 4]),
        (5, 16, [5, 4]),
        (4, 16, [4, 3, 2, 1]),
        (1, 16, [1]),
        (8, 8, [8, 4]),
        (4, 4, [4, 3, 2, 1]),
        (9, 4, [9, 8, 4]),
        (24, 24, [24, 12]),
        (12, 24, [12, 6]),
        (6, 24, [6, 5, 4, 3, 2, 1]),
        (9, 9, list(range(9, 0, -1))),
        (7, 3, [7, 6, 3]),
        (5, 1, [5, 4, 3, 2, 1]),
    ],
)
def test_what_a_group_may_keep(size: int, align: int, kept: list[int]) -> None:
    assert [size - k for k in Alignment(UnitSpace.of([("a", size)]), align).allowed[0]] == kept


def test_floors_cut_what_a_group_may_keep() -> None:
    space = UnitSpace(("a", "b", "c", "d"), (64, 64, 20, 8), (17, 0, 17, 8))
    assert Alignment(space, 16).allowed == ((0, 16, 32), (0, 16, 32, 48, 64), (0,), (0,))


@settings(deadline=None)
@given(spaces(), st.integers(1, 40))
def test_allowed_counts_are_whole_blocks_above_the_floor(space: UnitSpace, align: int) -> None:
    alignment = Alignment(space, align)
    for counts, size, floor, step in zip(alignment.allowed, space.sizes, space.floors, alignment.steps, strict=True):
        assert counts[0] == 0
        assert list(counts) == sorted(set(counts))
        assert all((size - k) % step == 0 and size - k >= floor for k in counts[1:])
        assert step == align if size > align else step < max(size, 2) and (step == 1 or step >= 4)
    assert alignment.most.tolist() == [counts[-1] for counts in alignment.allowed]


@settings(deadline=None)
@given(spaces())
def test_an_alignment_of_one_allows_what_the_floors_do(space: UnitSpace) -> None:
    ranges = [tuple(range(size - floor + 1)) for size, floor in zip(space.sizes, space.floors, strict=True)]
    assert list(Alignment(space).allowed) == ranges


@settings(deadline=None)
@given(spaces(), st.integers(1, 20), st.data())
def test_a_count_becomes_the_smallest_feasible_sum(space: UnitSpace, align: int, data: st.DataObject) -> None:
    alignment = Alignment(space, align)
    target = data.draw(st.integers(0, space.most))
    sums = {0}
    for counts in alignment.allowed:
        sums = {total + k for total, k in itertools.product(sums, counts)}
    feasible = [total for total in sums if total >= target]
    if not feasible:
        with pytest.raises(UsageError, match=f"in multiples of {align} at most {max(sums)} can") as caught:
            alignment.reach(CountBudget(space, target))
        assert "--align 1" in str(caught.value.hint)
    else:
        assert alignment.reach(CountBudget(space, target)).target == min(feasible)


def test_what_is_allowed() -> None:
    alignment = Alignment(UnitSpace.of([("a", 32), ("b", 32)]), 16)
    assert alignment.allows([0, 16])
    assert alignment.allows(np.array([16, 16]))
    assert not alignment.allows([16, 8])
    assert not alignment.allows([32, 0])


def test_the_largest_sparsity_is_named() -> None:
    space = UnitSpace.of([("a", 64), ("b", 32)])
    alignment = Alignment(space, 16)
    with pytest.raises(UsageError) as caught:
        alignment.reach(CountBudget(space, 65))
    assert caught.value.message == (
        "budget filters: 65 units are to go, but in multiples of 16 at most 64 can: the maximum sparsity is 0.6666"
    )
    assert caught.value.hint == "--align 1, or --sparsity 0.6666"
    cost = CostBudget(space, "macs", lambda counts: (64 - counts.get("a", 0)) * (32 - counts.get("b", 0)), 1793)
    with pytest.raises(UsageError, match=r"1793 MACs are to go.*at most 1792 can: the maximum sparsity is 0\.8750"):
        alignment.reach(cost)


@pytest.mark.parametrize("align", [0, -8])
def test_alignment_below_one(align: int) -> None:
    with pytest.raises(UsageError, match=f"align is {align}, expected at least 1"):
        Alignment(UnitSpace.of([("a", 8)]), align)


@pytest.mark.parametrize(
    ("size", "width", "kept"),
    [
        (12, 64, list(range(12, 0, -1))),  # heads of 64 channels
        (12, 16, list(range(12, 0, -1))),
        (16, 4, [16, 12, 8, 4]),
        (8, 12, [8, 4]),
        (64, 3, [64, 48, 32, 16]),
        (4, 4, [4, 2]),  # 8 channels of 16, as a group of single channels may
        (2, 4, [2, 1]),
    ],
)
def test_units_of_several_channels_are_aligned_by_channels(size: int, width: int, kept: list[int]) -> None:
    assert [size - k for k in Alignment(UnitSpace.of([("a", size)]), 16, (width,)).allowed[0]] == kept


@pytest.mark.parametrize("widths", [(1,), (1, 0), (1, 1, 1)])
def test_widths_are_checked(widths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected a number of 1 or more for each of 2 groups"):
        Alignment(UnitSpace.of([("a", 8), ("b", 8)]), 4, widths)


def test_the_largest_block_that_meets_the_budget() -> None:
    space = UnitSpace.of([("a", 64), ("b", 64)])
    blocks = []
    for target in (32, 45, 40, 36, 33, 1):
        budget, alignment = aligned_budget(None, lambda block, target=target: CountBudget(space, target))  # type: ignore[misc]
        assert budget.target == target
        assert 0 <= alignment.reach(budget).target - target <= len(space) / 20
        blocks.append(alignment.align)
    assert blocks == [16, 16, 8, 8, 4, 4]
    assert aligned_budget(None, lambda block: CountBudget(space, 32), largest=8)[1].align == 8
    assert aligned_budget(16, lambda block: CountBudget(space, 37))[1].align == 16
    heads = UnitSpace.of([("a", 12)])
    assert aligned_budget(None, lambda block: CountBudget(heads, 7), (64,))[1].align == 16


def test_no_block_reaches_what_single_channels_do_not() -> None:
    space = UnitSpace.of([("a", 64)])
    with pytest.raises(UsageError, match="64 units are to go, expected 0 to 63"):
        aligned_budget(None, lambda block: CountBudget(space, 64))
    with pytest.raises(UsageError, match="in multiples of 16 at most 48 can"):
        aligned_budget(16, lambda block: CountBudget(space, 60))
    budget, alignment = aligned_budget(None, lambda block: CountBudget(space, 60))
    assert (budget.target, alignment.align) == (60, 4)


def test_each_block_has_a_budget_of_its_own() -> None:
    """MACs in blocks: what counts as dense differs from block to block."""
    space = UnitSpace.of([("a", 20)])

    def at(block: int) -> CostBudget:
        return CostBudget(space, "macs", lambda counts: -(-(20 - counts.get("a", 0)) // block) * block, 8, block)

    budget, alignment = aligned_budget(None, at)
    assert (alignment.align, budget.dense) == (16, 32)
