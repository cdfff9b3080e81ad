"""Which units go and how wide every layer is: for a file of a given size, or for a given number of units.

With `Demand.target_bytes` units and widths are chosen together, at exact bytes. With `sparsity` exactly that share of the units
goes, as `--budget filters` has it, and widths are narrowed as far as that is worth its loss (`trading`); with both, exactly so
many units go, and units and widths together fit the size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qcompress import processor
from qcompress.alignment import BLOCKS, Alignment, aligned_budget
from qcompress.budgets import Budget, budget
from qcompress.errors import UsageError
from qcompress.joint.budget import SizeBudget
from qcompress.joint.demand import Demand, JointResult
from qcompress.joint.greedy import greedy
from qcompress.joint.held import counted
from qcompress.joint.offers import Offers, offers_of
from qcompress.joint.problem import of_profiles
from qcompress.joint.sizes import Sizes
from qcompress.joint.table import State, Table
from qcompress.joint.trading import rate, traded
from qcompress.problem import Problem
from qcompress.search import allocate, to_capacity
from qcompress.search_profiles import Profile
from qcompress.searching import search
from qcompress.selection import Selection
from qcompress.settings import SearchOptions
from qcompress.solvers.profile import Profiles

__all__ = ["Expand", "Solve", "Solved", "choose"]

Row = NDArray[np.bool_]
Counts = NDArray[np.int64]


class Solved(NamedTuple):
    """Units that a problem would choose, and by how much what was chosen with them loses more than at the start."""

    selection: Selection
    besides: float = 0.0


Solve = Callable[[Problem], Solved]
Expand = Callable[[Row, Solve], Problem]
"""(start, solve) -> the problem of the units near the selection `start` (n,); `solve` says what a problem would choose."""


def choose(
    profiles: Sequence[Profile],
    losses: Mapping[str, Mapping[str, float]],
    sizes: Sizes,
    demand: Demand,
    *,
    expand: Expand | None = None,
    options: SearchOptions | None = None,
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> JointResult:
    """Units and widths of the least loss found that meet the demand, by the backend of `options` (its objective has no effect).

    `profiles` has every group's energy at every count, its units leaving one after the other (`reconstruction.Eliminated`);
    `losses` every layer's by width, in the same unit: see `offers_of`. `expand` makes the problem of the units near the
    selection that these give; without it, the problem has the energies of the profiles and no others.

    Raises UsageError for a demand that cannot be met, BackendError as the search does.
    """
    run = _Run(profiles, offers_of(sizes, losses, demand.widths), demand, expand, options or SearchOptions(), seed, say)
    return run.for_units() if demand.target_bytes is None else run.for_size(demand.target_bytes)


@dataclass(frozen=True, eq=False)
class _Run:
    """The arguments of one choice."""

    profiles: Sequence[Profile]
    offers: Offers
    demand: Demand
    expand: Expand | None
    options: SearchOptions
    seed: int
    say: Callable[[str], None]

    @property
    def sizes(self) -> Sizes:
        """Of the files."""
        return self.offers.sizes

    @property
    def energies(self) -> list[NDArray[np.float64]]:
        """Of every count, by group of units."""
        return [profile.energies for profile in self.profiles]

    def for_size(self, most: int) -> JointResult:
        """Units and widths together, in one problem."""
        target, alignment = self._size_budget(most)
        space, steps = self.offers.space, self.offers.steps
        known = target.allocation([*self.energies, *steps], alignment.allowed)
        table = target.table([*self.energies, *steps], alignment.allowed)
        begun = table.quantisation(known.state)

        def solve(problem: Problem) -> Solved:
            whole, quick = space.problem(problem, steps), replace(target, quick=True)
            found = to_capacity(whole, quick, Profiles(), self.seed, align=alignment, certified=False).selection
            return Solved(space.network(found), self.offers.lost(target.chosen(found)) - begun)

        start = self._row(table.counts(known.state.levels))
        units = of_profiles(self.sizes.groups.space, self.profiles) if self.expand is None else self.expand(start, solve)
        found = search(space.problem(units, steps), target, alignment, self.options, self.seed, self.say)
        selection, widths = space.network(found.search.selection), target.chosen(found.search.selection)
        plain = greedy(table, most, self._prune_first(table, target), held=target.filters is not None)
        return JointResult(
            selection=selection,
            widths=self.offers.named(widths),
            bytes=self.sizes.bytes(selection.counts, self.offers.named(widths)),
            target_bytes=most,
            pruning=table.pruning(known.state) + float(units.energy(selection.x) - units.energy(start)),
            quantisation=self.offers.lost(widths),
            greedy_energy=None if plain is None else table.energy(plain),
            bound=known.bound,
            found=found,
            align=alignment.align,
        )

    def for_units(self) -> JointResult:
        """Units by their number, then widths by what pruning paid."""
        target, alignment = self._count_budget()
        table = Table.of(self.sizes, self.energies, alignment.allowed, self.offers.places, self.offers.losses)
        before = table.at(allocate(self.profiles, target, alignment))

        def solve(problem: Problem) -> Solved:
            return Solved(to_capacity(problem, target, Profiles(), self.seed, align=alignment, certified=False).selection)

        start = self._row(table.counts(before.levels))
        units = of_profiles(self.sizes.groups.space, self.profiles) if self.expand is None else self.expand(start, solve)
        found = search(units, target, alignment, self.options, self.seed, self.say)
        selection = found.search.selection
        after = table.at(np.asarray(self.sizes.groups.space.counts(selection.x), np.int64))
        chosen = traded(table, after, rate(table, after))
        return JointResult(
            selection=selection,
            widths=self.offers.named(chosen.widths.tolist()),
            bytes=table.bytes_of(chosen),
            target_bytes=None,
            pruning=table.pruning(before) + float(units.energy(selection.x) - units.energy(start)),
            quantisation=table.quantisation(chosen),
            greedy_energy=table.pruning(before) + table.quantisation(chosen),
            bound=None,
            found=found,
            align=alignment.align,
        )

    def _row(self, counts: Counts) -> Row:
        """(n,) the units that the profiles have at counts (G,)."""
        rows = [profile.rows[k] for profile, k in zip(self.profiles, counts.tolist(), strict=True)]
        return np.concatenate([np.zeros(0, bool), *rows])

    def _prune_first(self, table: Table, target: SizeBudget) -> State | None:
        """Of a number of units, the counts of least energy; None where their number is free."""
        if target.filters is None:
            return None
        return State(counted(table, table.energies, target.filters), table.start.widths)

    def _count_budget(self) -> tuple[Budget, Alignment]:
        """The number of units that the sparsity means, in allowed counts."""
        sparsity, groups = self.demand.sparsity, self.sizes.groups
        assert sparsity is not None

        def at(block: int) -> Budget:
            return budget("filters", sparsity, groups.space, groups.params, groups.macs, block=block)

        target, alignment = aligned_budget(self.options.align, at, groups.widths, processor.block())
        return alignment.reach(target), alignment

    def _size_budget(self, most: int) -> tuple[SizeBudget, Alignment]:
        """At most so many bytes, and where a sparsity is asked for too, exactly as many units as it means."""
        align, filters = self.options.align, None
        if self.demand.sparsity is not None:
            count, alignment = self._count_budget()
            align, filters = alignment.align, count.target

        def at(block: int) -> SizeBudget:
            return SizeBudget(self.offers.space, self.sizes, self.offers.places, most, filters, block)

        _check(at(1))
        whole_blocks = (align or BLOCKS[0] for _ in self.offers.steps)  # so that every number of steps is allowed
        _, alignment = aligned_budget(align, at, (*self.sizes.groups.widths, *whole_blocks), processor.block())
        return at(alignment.align), alignment


def _check(target: SizeBudget) -> None:
    """Raises UsageError where no counts and widths fit, whatever the number of units."""
    space = target.space
    least = target.dense - int(target.capacity(np.subtract(space.sizes, space.floors)))
    if least > target.most:
        raise UsageError(
            f"a file of {target.most:,} bytes cannot be reached: the floors of the groups and the widths allow {least:,} at "
            f"least; the dense network at its widest has {target.dense:,}",
            "ask for a larger file, or allow narrower widths with --bits",
        )
