"""What can be pruned, and what was chosen: units, their space, and a selection. Plain values, no torch."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcompress.errors import UsageError

__all__ = ["Selection", "Unit", "UnitSpace"]


class Unit(NamedTuple):
    """One channel of one coupled group: what goes together or not at all. The label of a QUBO variable."""

    group: str
    number: int


@dataclass(frozen=True)
class UnitSpace:
    """All units in model order: `groups[g]` has `sizes[g]` units, of which at least `floors[g]` stay."""

    groups: tuple[str, ...]
    sizes: tuple[int, ...]
    floors: tuple[int, ...]

    def __post_init__(self) -> None:
        if not len(self.groups) == len(self.sizes) == len(self.floors):
            raise ValueError("groups, sizes and floors differ in length")
        if len(set(self.groups)) != len(self.groups):
            raise ValueError("two groups of the same name")
        for group, size, floor in zip(self.groups, self.sizes, self.floors, strict=True):
            if not 0 <= floor <= size:
                raise UsageError(f"group {group}: at least {floor} units are to stay, but it has {size}")

    @classmethod
    def of(cls, sizes: Iterable[tuple[str, int]], floor: int = 1) -> UnitSpace:
        """A space from (group, size) pairs; every group keeps at least `floor` units (or all, if it has fewer)."""
        pairs = tuple(sizes)
        return cls(tuple(g for g, _ in pairs), tuple(s for _, s in pairs), tuple(min(floor, s) for _, s in pairs))

    def __len__(self) -> int:
        return sum(self.sizes)

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """Every unit, in order; its place here is its place in every vector over units."""
        return tuple(Unit(group, number) for group, size in zip(self.groups, self.sizes, strict=True) for number in range(size))

    @cached_property
    def spans(self) -> tuple[slice, ...]:
        """Where each group's units lie in a vector over units."""
        ends = np.cumsum((0, *self.sizes)).tolist()
        return tuple(slice(start, stop) for start, stop in itertools.pairwise(ends))

    @cached_property
    def group_of(self) -> NDArray[np.intp]:
        """(n,) index of the group of each unit."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)

    @cached_property
    def most(self) -> int:
        """How many units can be pruned without breaking a floor."""
        return sum(self.sizes) - sum(self.floors)

    def span(self, group: str) -> slice:
        """The span of the group called `group`."""
        return self.spans[self.groups.index(group)]

    def counts(self, x: ArrayLike) -> NDArray[np.intp]:
        """Number pruned per group: (G,) for a vector x (n,), or (K, G) for K vectors (K, n)."""
        x = np.asarray(x)
        ends = np.cumsum((0, *self.sizes))
        sums = np.concatenate((np.zeros((*x.shape[:-1], 1), np.intp), np.cumsum(x, -1, dtype=np.intp)), -1)
        counts: NDArray[np.intp] = sums[..., ends[1:]] - sums[..., ends[:-1]]
        return counts

    def allows(self, x: ArrayLike) -> bool:
        """Whether every group keeps its floor under x."""
        return bool(np.all(self.counts(x) <= np.subtract(self.sizes, self.floors)))


@dataclass(frozen=True)
class Selection:
    """Which units are pruned: `pruned` holds their places in `space`, ascending. Hashable; breaks no floor."""

    space: UnitSpace
    pruned: tuple[int, ...]

    def __post_init__(self) -> None:
        if list(self.pruned) != sorted(set(self.pruned)):
            raise ValueError("pruned must be ascending and without repetition")
        if self.pruned and not 0 <= self.pruned[0] <= self.pruned[-1] < len(self.space):
            raise ValueError(f"pruned holds a place outside 0..{len(self.space) - 1}")
        if not self.space.allows(self.x):
            raise ValueError("a group falls below its floor")

    @classmethod
    def of(cls, space: UnitSpace, x: ArrayLike) -> Selection:
        """From a vector (n,) of truth values or 0/1: 1 = pruned."""
        x = np.asarray(x)
        if x.shape != (len(space),):
            raise ValueError(f"expected a vector of {len(space)} entries, got shape {x.shape}")
        return cls(space, tuple(np.flatnonzero(x).tolist()))

    @property
    def x(self) -> NDArray[np.bool_]:
        """(n,) True where a unit is pruned; a fresh array."""
        x = np.zeros(len(self.space), bool)
        x[list(self.pruned)] = True
        return x

    def __len__(self) -> int:
        return len(self.pruned)

    @property
    def counts(self) -> dict[str, int]:
        """Number of pruned units per group."""
        return dict(zip(self.space.groups, self.space.counts(self.x).tolist(), strict=True))

    def removed(self, group: str) -> tuple[int, ...]:
        """Indices inside `group` of its pruned units."""
        return tuple(np.flatnonzero(self.x[self.space.span(group)]).tolist())

    def kept(self, group: str) -> tuple[int, ...]:
        """Indices inside `group` of the units that stay."""
        return tuple(np.flatnonzero(~self.x[self.space.span(group)]).tolist())
