"""What a choice of counts and widths is made from, as arrays: energies, offers, and exact bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qcompress.joint.sizes import Sizes

__all__ = ["State", "Table"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class State(NamedTuple):
    """A choice: the place of every group in its offer (G,), and of every layer in its widths (layers,)."""

    levels: Ints
    widths: Ints


@dataclass(frozen=True, eq=False)
class Table:
    """The choices of a network.

    offers  per group the numbers of pruned units that are allowed, ascending from 0;  energies  what each loses
    widths  per layer of `sizes.layers` the places in `WIDTHS` that it may take, the widest first;  losses  what each loses
    """

    sizes: Sizes
    offers: tuple[Ints, ...]
    energies: tuple[Floats, ...]
    widths: tuple[Ints, ...]
    losses: tuple[Floats, ...]

    @classmethod
    def of(
        cls,
        sizes: Sizes,
        energies: Sequence[Floats],
        allowed: Sequence[Sequence[int]],
        widths: Sequence[Ints],
        losses: Sequence[Floats],
    ) -> Table:
        """From energies of every count of a group, from 0, and the counts that are allowed."""
        offers = tuple(np.array(offer, np.int64) for offer in allowed)
        offered = tuple(np.asarray(own)[offer] for own, offer in zip(energies, offers, strict=True))
        return cls(sizes, offers, offered, tuple(widths), tuple(losses))

    def at(self, counts: Ints) -> State:
        """Allowed counts (G,), with all layers at their widest."""
        levels = [int(np.searchsorted(offer, k)) for offer, k in zip(self.offers, counts.tolist(), strict=True)]
        return State(np.array(levels, np.int64), self.start.widths)

    @property
    def start(self) -> State:
        """Nothing pruned, all layers at their widest."""
        return State(np.zeros(len(self.offers), np.int64), np.zeros(len(self.widths), np.int64))

    @cached_property
    def tolerance(self) -> float:
        """Below it, differences of energy are rounding."""
        return 1e-10 * sum(float(np.abs(entries).max(initial=0.0)) for entries in (*self.energies, *self.losses))

    def counts(self, levels: Ints) -> Ints:
        """(..., G) pruned units."""
        return _look_up(self.offers, levels)

    def bytes(self, levels: Ints, widths: Ints) -> Ints:
        """(K,) of the file, for levels (K, G) and widths (K, layers)."""
        return self.sizes.totals(self.counts(levels), _look_up(self.widths, widths))

    def layer_bytes(self, counts: Ints, widths: Ints) -> Ints:
        """(K, layers) of every layer, for counts (K, G) of pruned units and places of widths (K, layers)."""
        return self.sizes.layer_totals(counts, _look_up(self.widths, widths))

    def bytes_of(self, state: State) -> int:
        """Of one choice."""
        return int(self.bytes(state.levels[None], state.widths[None])[0])

    def energy(self, state: State) -> float:
        """Of one choice: what its groups and its layers lose."""
        return self.pruning(state) + self.quantisation(state)

    def pruning(self, state: State) -> float:
        """What the groups lose."""
        return _sum_at(self.energies, state.levels)

    def quantisation(self, state: State) -> float:
        """What the layers lose."""
        return _sum_at(self.losses, state.widths)


def _look_up(tables: Sequence[Ints], places: Ints) -> Ints:
    """(..., n) the entry of every table at its place (..., n)."""
    columns = [table[places[..., number]] for number, table in enumerate(tables)]
    return np.stack(columns, -1) if columns else np.zeros(places.shape, np.int64)


def _sum_at(tables: Sequence[Floats], places: Ints) -> float:
    return float(sum(table[place] for table, place in zip(tables, places.tolist(), strict=True)))
