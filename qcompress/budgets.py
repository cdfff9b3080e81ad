"""How much is to go: a budget weighs pruned units in its own unit and says, exactly, what a selection frees."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcompress.errors import UsageError
from qcompress.selection import UnitSpace
from qcompress.targets import UNITS, AtMost, Speedup, reachable, shown

__all__ = ["BUDGETS", "Allocating", "Budget", "Cost", "CostBudget", "CountBudget", "budget", "cost_share", "cost_within"]

Cost = Callable[[Mapping[str, int]], int]
"""Exact cost of the network with that many units pruned per group (absent: none), as `Groups.params` and `Groups.macs` are."""

BUDGETS = ("filters", "params", "macs")
"""Those whose capacity follows from the network alone; size and latency are measured."""


class Budget(Protocol):
    """What a selection must free. Capacity depends on the number pruned per group only, and grows with it.

    A count budget (`counts_units`) is met exactly; any other is met by the smallest capacity found that is at least `target`.
    """

    @property
    def name(self) -> str:
        """As in `qcompress.targets.UNITS`."""

    @property
    def unit(self) -> str:
        """What capacity counts, for reports: "units", "parameters", "MACs", "bytes", "picoseconds"."""

    @property
    def space(self) -> UnitSpace:
        """The units that can be pruned."""

    @property
    def target(self) -> int:
        """The capacity to free."""

    @property
    def dense(self) -> int:
        """Of which the target is a share: the number of units, or the cost of the dense network."""

    @property
    def counts_units(self) -> bool:
        """Whether capacity is the number of pruned units."""

    def capacity(self, counts: ArrayLike) -> NDArray[np.int64]:
        """Exact capacity freed by `counts` pruned per group: () for (G,), (K,) for (K, G)."""

    def marginals(self, counts: ArrayLike) -> NDArray[np.float64]:
        """(G,) capacity that one more pruned unit of each group frees on top of `counts` (G,); the last one, where all are."""

    def weights(self) -> NDArray[np.float64]:
        """(n,) D_i > 0, first order: the capacity that each unit frees when it goes alone."""

    def part(self, share: float) -> Budget:
        """The budget of the same kind with `share` (0..1) of the target."""

    @property
    def relaxed(self) -> Budget:
        """A budget that every selection meets that meets this one, for bounds.

        Its groups free together at most the sum of what each frees alone. The budget itself, where that is so.
        """


@runtime_checkable
class Allocating(Budget, Protocol):
    """A budget that shares itself out among the groups, because it knows more of its cost than that it is exact."""

    def allocate(self, energies: Sequence[NDArray[np.float64]], allowed: Sequence[Sequence[int]]) -> NDArray[np.int64]:
        """(G,) counts of little energy, out of those `allowed` in each group, that meet the budget.

        `energies` are those of every count of a group, from 0. Raises UsageError where no allowed counts meet it.
        """


@dataclass(frozen=True)
class CountBudget:
    """Exactly `target` units go."""

    space: UnitSpace
    target: int
    name = "filters"
    unit = "units"
    counts_units = True

    def __post_init__(self) -> None:
        _check_target(self.name, self.unit, self.target, self.space.most)

    @property
    def dense(self) -> int:
        """The number of units."""
        return len(self.space)

    def capacity(self, counts: ArrayLike) -> NDArray[np.int64]:
        """Number of pruned units."""
        return np.asarray(np.asarray(counts).sum(-1, dtype=np.int64))

    def marginals(self, counts: ArrayLike) -> NDArray[np.float64]:
        """(G,) ones."""
        return np.ones(np.asarray(counts).shape[-1])

    def weights(self) -> NDArray[np.float64]:
        """(n,) ones."""
        return np.ones(len(self.space))

    def part(self, share: float) -> Budget:
        """So many units, rounded."""
        return replace(self, target=round(share * self.target))

    @property
    def relaxed(self) -> Budget:
        """Itself: counts add up."""
        return self


@dataclass(frozen=True)
class CostBudget:
    """At least `target` of a cost goes: parameters, MACs, bytes or time, by the exact cost of what stays.

    With a `block` above 1 the cost counts channels in whole blocks of so many, and a marginal capacity is the mean over a
    block: one unit alone mostly frees nothing. `additive` is a cost that is never above `cost` and whose groups free together
    at most the sum of what each frees alone; None where that is `cost`, as it is for sums of products of what is kept.
    """

    space: UnitSpace
    name: str
    cost: Cost
    target: int
    block: int = 1
    additive: Cost | None = None
    counts_units = False

    def __post_init__(self) -> None:
        _check_target(self.name, self.unit, self.target, _most(self.space, self.cost))

    @property
    def unit(self) -> str:
        """Of the capacity."""
        return UNITS.get(self.name, self.name)

    @property
    def dense(self) -> int:
        """The cost of the dense network."""
        return self.cost({})

    def capacity(self, counts: ArrayLike) -> NDArray[np.int64]:
        """Dense cost less the cost at `counts`."""
        rows = np.atleast_2d(np.asarray(counts, np.int64))
        dense = self.cost({})
        freed = np.array([dense - self.cost(dict(zip(self.space.groups, row, strict=True))) for row in rows.tolist()], np.int64)
        return np.asarray(freed[0]) if np.ndim(counts) == 1 else freed

    def marginals(self, counts: ArrayLike) -> NDArray[np.float64]:
        """(G,) by exact differences of the cost; with a block, over as many units, or the whole of a smaller group."""
        counts, sizes = np.asarray(counts, np.int64), np.array(self.space.sizes, np.int64)
        far = np.minimum(self.block, sizes)
        before = np.minimum(counts, sizes - far)
        rows = np.tile(counts, (len(counts), 1))
        fewer, more = rows.copy(), rows
        np.fill_diagonal(fewer, before)
        np.fill_diagonal(more, before + far)
        freed: NDArray[np.int64] = self.capacity(more) - self.capacity(fewer)
        return np.asarray(freed / np.maximum(far, 1), np.float64)

    def weights(self) -> NDArray[np.float64]:
        """(n,) the marginals of the dense network.

        Raises UsageError for a group that frees nothing: it can serve no budget.
        """
        first = self.marginals(np.zeros(len(self.space.groups), np.int64))
        for group, size, freed in zip(self.space.groups, self.space.sizes, first.tolist(), strict=True):
            if size and freed <= 0:
                raise UsageError(
                    f"budget {self.name}: a unit of group {group} frees {freed:g} {self.unit}, expected more than 0"
                )
        weights: NDArray[np.float64] = np.repeat(first, self.space.sizes)
        return weights

    def part(self, share: float) -> Budget:
        """So much of the cost, rounded."""
        return replace(self, target=round(share * self.target))

    @property
    def relaxed(self) -> Budget:
        """By the additive cost, with the target lowered by what it leaves out of the dense network."""
        if self.additive is None:
            return self
        target = max(0, self.target - self.cost({}) + self.additive({}))
        return CostBudget(self.space, self.name, self.additive, target, self.block)


def budget(
    name: str,
    sparsity: float,
    space: UnitSpace,
    params: Cost,
    macs: Cost,
    *,
    block: int = 1,
    additive_macs: Cost | None = None,
) -> Budget:
    """The budget called `name` that frees the share `sparsity` of the units, parameters or MACs.

    filters: round(sparsity * units) of them, exactly, halves rounded up. params, macs: the target is the smallest whole number
    that is at least sparsity * dense cost. `sparsity` is taken as the decimal number it prints as: 0.145 of 100 is 14.5.

    `macs` may count channels in blocks of `block`, of the dense network and of what stays alike; `additive_macs` then is its
    lower bound, see `CostBudget.additive`.

    Raises UsageError for an unknown name, a sparsity that is not in 0 <= sparsity < 1, and one that the floors of the groups
    do not allow; the message then names the largest that they do.
    """
    if name not in BUDGETS:
        raise UsageError(f"budget {name!r} is unknown, expected one of {', '.join(BUDGETS)}")
    if not 0 <= sparsity < 1:
        raise UsageError(
            f"sparsity is {sparsity}, expected 0 <= sparsity < 1", hint="0.5 takes half of the filters (or parameters, or MACs)"
        )
    if name == "filters":
        target = math.floor(Fraction(str(float(sparsity))) * len(space) + Fraction(1, 2))
        _check_sparsity(name, sparsity, target, space.most, len(space))
        return CountBudget(space, target)
    if name == "params":
        return cost_share(name, sparsity, space, params)
    return cost_share(name, sparsity, space, macs, block=block, additive=additive_macs)


def cost_share(
    name: str, sparsity: float, space: UnitSpace, cost: Cost, *, block: int = 1, additive: Cost | None = None
) -> CostBudget:
    """The budget that frees the share `sparsity`, 0 to below 1, of a cost. Raises UsageError where floors do not allow it."""
    dense = cost({})
    target = math.ceil(Fraction(str(float(sparsity))) * dense)
    _check_sparsity(name, sparsity, target, _most(space, cost), dense)
    return CostBudget(space, name, cost, target, block, additive)


def cost_within(
    name: str,
    most: float,
    space: UnitSpace,
    cost: Cost,
    *,
    block: int = 1,
    additive: Cost | None = None,
    target: AtMost | Speedup | None = None,
    prunable: Sequence[int] | None = None,
) -> CostBudget:
    """The budget that leaves at most `most` of a cost. Raises UsageError where the floors, or `prunable`, do not allow it.

    `target` is what the user asked for, whose largest value the hint then has. `prunable` (G,) are the most units of each group
    that may go, where an alignment says less than the floors do.
    """
    dense = cost({})
    fewest = None if prunable is None else cost(dict(zip(space.groups, prunable, strict=True)))
    freed, largest = max(0, dense - math.floor(most)), _most(space, cost) if fewest is None else dense - fewest
    if freed > largest:
        least = dense - largest
        instead = "ask for more" if target is None else f"{reachable(target, name, least, dense)} is the most that they allow"
        raise UsageError(
            f"at most {shown(most, name)} are to stay, but with the least that every group keeps {shown(least, name)} do",
            f"{instead}; --floor, --align and --ignore say what they keep",
        )
    return CostBudget(space, name, cost, freed, block, additive)


def _most(space: UnitSpace, cost: Cost) -> int:
    """Capacity freed when every group is pruned down to its floor."""
    fewest = itertools.starmap(int.__sub__, zip(space.sizes, space.floors, strict=True))
    return cost({}) - cost(dict(zip(space.groups, fewest, strict=True)))


def _check_target(name: str, unit: str, target: int, most: int) -> None:
    if not 0 <= target <= most:
        raise UsageError(f"budget {name}: {target} {unit} are to go, expected 0 to {most}, what the floors of the groups allow")


def _check_sparsity(name: str, sparsity: float, target: int, most: int, dense: int) -> None:
    if target <= most:
        return
    largest = math.floor(10_000 * Fraction(most, dense)) / 10_000
    raise UsageError(
        f"sparsity {sparsity} of {name} cannot be reached: the maximum is {largest:.4f}, because every group keeps its floor",
        hint=f"--sparsity {largest:.4f}, or another --budget",
    )
