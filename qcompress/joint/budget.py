"""A budget of exact bytes: what units and width steps free together. Groups multiply, as counts at both sides of a layer do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcompress.joint.allocation import FEW_SPLITS, SPLITS, Allocation, allocate_bytes
from qcompress.joint.held import allocate_held
from qcompress.joint.problem import JointSpace
from qcompress.joint.sizes import Sizes
from qcompress.joint.table import Table
from qcompress.selection import Selection, UnitSpace

__all__ = ["SizeBudget"]

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class SizeBudget:
    """At most `most` bytes; with `filters`, exactly so many units go. A `Budget` that allocates by itself.

    `widths` are places in `WIDTHS` per layer of `sizes.layers`, the widest first: those of one width have no steps. A width
    that takes more bytes than a wider one, as narrow ones do in a layer of few weights, frees what the wider one does: so
    capacity never falls, and `chosen` takes the wider one. With `quick`, allocations are looked for less hard.
    """

    space_of: JointSpace
    sizes: Sizes
    widths: tuple[Ints, ...]
    most: int
    filters: int | None = None
    block: int = 1
    quick: bool = False
    name = "size"
    unit = "bytes"
    counts_units = False

    @cached_property
    def space(self) -> UnitSpace:
        """Units and width steps."""
        return self.space_of.whole

    @cached_property
    def dense(self) -> int:
        """Bytes with nothing pruned, every layer at its widest."""
        return int(self.sizes.totals([[0] * len(self.space_of.units.groups)], [[own[0] for own in self.widths]])[0])

    @property
    def target(self) -> int:
        """Bytes to free."""
        return max(self.dense - self.most, 0)

    @property
    def relaxed(self) -> SizeBudget:
        """Itself: what is kept are sums of products, so together groups free at most what each frees alone."""
        return self

    def capacity(self, counts: ArrayLike) -> Ints:
        """Bytes freed."""
        rows = np.atleast_2d(np.asarray(counts, np.int64))
        freed = self.dense - round(self.sizes.facts.fixed) - self._least(rows)[0].sum(-1)
        return np.asarray(freed[0] if np.ndim(counts) == 1 else freed)

    def chosen(self, selection: Selection) -> list[int]:
        """(layers,) the place of every layer in its `widths`: the widest that takes no more bytes than that of its steps."""
        counts = np.asarray(self.space.counts(selection.x), np.int64)
        return list(self._least(counts[None])[1][0].tolist())

    def marginals(self, counts: ArrayLike) -> NDArray[np.float64]:
        """(G,) by exact differences: of one step, and of units over a block, as `CostBudget.marginals`."""
        counts, sizes = np.asarray(counts, np.int64), np.array(self.space.sizes, np.int64)
        block = np.where(np.arange(len(sizes)) < len(self.space_of.units.groups), self.block, 1)
        far = np.minimum(block, sizes)
        before = np.minimum(counts, sizes - far)
        fewer, more = np.tile(counts, (len(counts), 1)), np.tile(counts, (len(counts), 1))
        np.fill_diagonal(fewer, before)
        np.fill_diagonal(more, before + far)
        freed = self.capacity(more) - self.capacity(fewer)
        return np.asarray(freed / np.maximum(far, 1), np.float64)

    def weights(self) -> NDArray[np.float64]:
        """(n,) the marginals of the dense network."""
        first = self.marginals(np.zeros(len(self.space.groups), np.int64))
        return np.asarray(np.repeat(np.maximum(first, 1e-9), self.space.sizes))

    def part(self, share: float) -> SizeBudget:
        """So much of what is to be freed, rounded."""
        return replace(self, most=self.dense - round(share * self.target))

    def allocate(self, energies: Sequence[NDArray[np.float64]], allowed: Sequence[Sequence[int]]) -> Ints:
        """(G,) counts of little energy that meet the budget. Raises UsageError where none do."""
        found = self.allocation(energies, allowed).state
        return np.concatenate((self.table(energies, allowed).counts(found.levels), found.widths[self._places]))

    def allocation(self, energies: Sequence[NDArray[np.float64]], allowed: Sequence[Sequence[int]]) -> Allocation:
        """The same with its energy and what is proven about it."""
        key = b"".join(np.asarray(own).tobytes() for own in (*energies, *allowed))
        if key not in self._last:
            self._last.clear()
            self._last[key] = self._allocation(self.table(energies, allowed))
        return self._last[key]

    @cached_property
    def _last(self) -> dict[bytes, Allocation]:
        """The last allocation by what it was made from: a search asks again while its profiles are the same."""
        return {}

    def _allocation(self, table: Table) -> Allocation:
        if self.filters is not None:
            return allocate_held(table, self.most, self.filters, quick=self.quick)
        return allocate_bytes(table, self.most, splits=FEW_SPLITS if self.quick else SPLITS)

    def table(self, energies: Sequence[NDArray[np.float64]], allowed: Sequence[Sequence[int]]) -> Table:
        """The choices, for energies by count of every group and the counts that are allowed."""
        units = len(self.space_of.units.groups)
        steps = dict(zip(self.space_of.layers, energies[units:], strict=True))
        losses = tuple(np.asarray(steps.get(layer.name, np.zeros(1))) for layer in self.sizes.layers)
        return Table.of(self.sizes, energies[:units], allowed[:units], self.widths, losses)

    @cached_property
    def _places(self) -> list[int]:
        """Places in `sizes.layers` of the layers with steps."""
        names = [layer.name for layer in self.sizes.layers]
        return [names.index(layer) for layer in self.space_of.layers]

    @cached_property
    def _padded(self) -> Ints:
        """(widths, layers) places in `WIDTHS`, the last repeated."""
        most = max(map(len, self.widths), default=1)
        return np.array([[int(own[min(k, len(own) - 1)]) for own in self.widths] for k in range(most)], np.int64)

    def _least(self, counts: Ints) -> tuple[Ints, Ints]:
        """(K, layers) bytes at the cheapest of the widths up to the steps taken, and its place, for counts (K, G)."""
        units = len(self.space_of.units.groups)
        taken = np.zeros((len(counts), len(self.widths)), np.int64)
        taken[:, self._places] = counts[:, units:]
        least, best = np.zeros(taken.shape, np.int64), np.zeros(taken.shape, np.int64)
        for k, widths in enumerate(self._padded):
            own = self.sizes.layer_totals(counts[:, :units], np.tile(widths, (len(counts), 1)))
            better = (taken >= k) & (own < least) if k else np.ones(taken.shape, bool)
            least, best = np.where(better, own, least), np.where(better, k, best)
        return least, best
