"""Which counts per group are worth having: runtimes compute channels in blocks, and a part of a block costs a whole one.

ONNX Runtime works on blocks of 16 channels (AVX-512, ARM64) or 8 (AVX2): a layer cut from 64 channels to 52 is no faster, to 48
it is. With an alignment, a group keeps whole blocks only, or all of its units.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcompress.budgets import Budget, CountBudget
from qcompress.errors import UsageError
from qcompress.selection import UnitSpace
from qcompress.targets import shown

__all__ = ["BLOCKS", "Alignment", "aligned_budget"]

BLOCKS = (16, 8, 4, 1)
"""Blocks of channels that runtimes compute in, largest first, and none."""

SLACK = 20
"""One in so many units may go beyond the count that was asked for, so that channels stay in blocks."""

LEAST = 4
"""The smallest fraction of an alignment: below four input channels runtimes have no blocked kernel left to lose."""


@dataclass(frozen=True)
class Alignment:
    """Of the groups of `space`: each keeps all of its units or a multiple of its step, and never less than its floor.

    `align` counts channels. `widths` has how many of them a unit of each group owns (empty: one): where units own whole blocks,
    such as attention heads of 64 channels, every number of units is aligned. The step is align / gcd(align, width) units.

    The step of a group of more than `align` units of one channel is `align`. A smaller one (or one of just `align`) would have
    nothing to give; its step is the largest of align/2, align/4, ... down to 4 that is less than its size, and 1 where there is
    none: with `align` 16, groups of 9 to 16 units keep 8 or all, groups of 5 to 8 keep 4 or all, groups of up to 4 any number.
    Only whole fractions count: of 24 those are 12 and 6, of 9 none. With `align` 1 every number is allowed. `fixed` gives the
    steps outright: for groups that are what is left of larger ones.

    `multiples` are alignments of single groups, in place of `align` where not 0; `ceilings` are the most units that each keeps.
    Empty, there are none.

    Raises UsageError for `align` below 1, and by `allowed` for a group that no multiple is left for between its floor and its
    ceiling; ValueError for widths of another number of groups or below 1.

    >>> Alignment(UnitSpace.of([("a", 64), ("b", 16), ("c", 3)]), 16).allowed
    ((0, 16, 32, 48), (0, 8), (0, 1, 2))
    >>> Alignment(UnitSpace.of([("heads", 6), ("parts", 16)]), 16, (64, 4)).allowed
    ((0, 1, 2, 3, 4, 5), (0, 4, 8, 12))
    """

    space: UnitSpace
    align: int = 1
    widths: tuple[int, ...] = ()
    multiples: tuple[int, ...] = ()
    ceilings: tuple[int, ...] = ()
    fixed: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.align < 1:
            raise UsageError(f"align is {self.align}, expected at least 1", hint="--align 1 allows every number of channels")
        if self.widths and (len(self.widths) != len(self.space.groups) or min(self.widths) < 1):
            raise ValueError(
                f"widths are {self.widths}, expected a number of 1 or more for each of {len(self.space.groups)} groups"
            )
        if self.fixed and (len(self.fixed) != len(self.space.groups) or min(self.fixed) < 1):
            raise ValueError(f"steps are {self.fixed}, expected one of at least 1 for each of {len(self.space.groups)} groups")

    @cached_property
    def steps(self) -> tuple[int, ...]:
        """The step of each group."""
        if self.fixed:
            return self.fixed
        widths = self.widths or (1,) * len(self.space.sizes)
        aligns = self.multiples or (0,) * len(self.space.sizes)
        columns = zip(self.space.sizes, aligns, widths, strict=True)
        return tuple(_step(size, align or self.align, width) for size, align, width in columns)

    @property
    def free(self) -> bool:
        """Whether every count is allowed that the floors allow."""
        any_number = self.align == 1 and not any(self.multiples) and max(self.fixed, default=1) == 1
        ceilings = self.ceilings or self.space.sizes
        return any_number and all(most >= size for most, size in zip(ceilings, self.space.sizes, strict=True))

    @cached_property
    def allowed(self) -> tuple[tuple[int, ...], ...]:
        """Per group the numbers of *pruned* units that are allowed, ascending: from 0 where there is no ceiling."""
        found = []
        ceilings = self.ceilings or self.space.sizes
        for g, (size, floor, step) in enumerate(zip(self.space.sizes, self.space.floors, self.steps, strict=True)):
            kept = (size, *(k for k in range(size - 1, floor - 1, -1) if k % step == 0))
            found.append(tuple(size - k for k in kept if k <= ceilings[g]))
            if not found[-1]:
                raise UsageError(
                    f"group {self.space.groups[g]} is to keep {floor} to {ceilings[g]} units, none a multiple of {step}",
                    "change --keep-at-most, --multiple-of or --align",
                )
        return tuple(found)

    @cached_property
    def most(self) -> NDArray[np.int64]:
        """(G,) the largest number of pruned units allowed in each group."""
        return np.array([counts[-1] for counts in self.allowed], np.int64)

    def allows(self, counts: ArrayLike) -> bool:
        """Whether the numbers of pruned units per group (G,) are all allowed."""
        return all(k in allowed for k, allowed in zip(np.asarray(counts).tolist(), self.allowed, strict=True))

    def reach(self, budget: Budget) -> Budget:
        """`budget`, of this space, as far as allowed counts can meet it.

        A count becomes the smallest sum of allowed counts that is at least as large: itself, where it is one. A cost stays.

        Raises UsageError if all allowed together free less than the target; the message names the largest sparsity.
        """
        most = int(budget.capacity(self.most))
        if most < budget.target:
            largest = math.floor(10_000 * Fraction(most, budget.dense)) / 10_000
            raise UsageError(
                f"budget {budget.name}: {_shown(budget, budget.target)} are to go, but in multiples of {self.align} "
                f"at most {_shown(budget, most, bare=True)} can: the maximum sparsity is {largest:.4f}",
                hint=f"--align 1, or --sparsity {largest:.4f}",
            )
        return CountBudget(self.space, self._least_sum(budget.target)) if budget.counts_units else budget

    def _least_sum(self, target: int) -> int:
        """The smallest sum of one allowed count per group that is at least `target`, which the sum of the largest is."""
        sums = np.zeros(int(self.most.sum()) + 1, bool)
        sums[0] = True
        for allowed in self.allowed:
            before = sums
            sums = np.zeros_like(before)
            for k in allowed:
                sums[k:] |= before[: len(before) - k]
        return target + int(sums[target:].argmax())


def aligned_budget(
    align: int | None,
    budget_at: Callable[[int], Budget],
    widths: tuple[int, ...] = (),
    largest: int = BLOCKS[0],
    multiples: tuple[int, ...] = (),
    ceilings: tuple[int, ...] = (),
) -> tuple[Budget, Alignment]:
    """The budget, and which counts per group are allowed to meet it; `budget_at` makes the budget for a block of channels.

    With `align` None the block is the largest of the usual ones (16, 8, 4, 1), up to `largest`, with which the budget can be
    met: where it counts units, by taking at most a twentieth of all units more than asked.

    Raises UsageError where allowed counts, or with None any, do not reach the target.
    """
    for block in BLOCKS[:-1] if align is None else ():
        if block > largest:
            continue
        try:
            budget = budget_at(block)
            alignment = Alignment(budget.space, block, widths, multiples, ceilings)
            if (alignment.reach(budget).target - budget.target) * SLACK <= len(budget.space):
                return budget, alignment
        except UsageError:
            continue  # a smaller block may do; what none can do is said about single channels, below
    budget = budget_at(align or BLOCKS[-1])
    alignment = Alignment(budget.space, align or BLOCKS[-1], widths, multiples, ceilings)
    alignment.reach(budget)
    return budget, alignment


def _shown(budget: Budget, capacity: int, *, bare: bool = False) -> str:
    """A capacity with its unit; times in milliseconds."""
    if budget.name == "latency":
        return shown(capacity, budget.name)
    return f"{capacity}" if bare else f"{capacity} {budget.unit}"


def _step(size: int, align: int, width: int) -> int:
    """In units of `width` channels."""
    step = align // math.gcd(align, width)
    while step >= size:
        if step % 2 or step // 2 * width < LEAST:
            return 1
        step //= 2
    return step
