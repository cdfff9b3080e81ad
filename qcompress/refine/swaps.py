"""Mutants of a mask: some pruned units come back, as many others go. The count never changes and no floor breaks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from qcompress.refine.contract import Energy
from qcompress.selection import UnitSpace

__all__ = ["Mutate", "flip_costs", "keeps_floors", "swapped", "swapped_inside"]


Mutate: TypeAlias = Callable[[UnitSpace, NDArray[np.bool_], NDArray[np.intp], np.random.Generator], NDArray[np.bool_]]
"""Mutants of a mask (n,) by exchanges, as `swapped` makes them."""


def keeps_floors(space: UnitSpace, masks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(K,) which of the masks (K, n) leave every group its floor."""
    return np.asarray((space.counts(masks) <= np.subtract(space.sizes, space.floors)).all(axis=1))


def swapped(
    space: UnitSpace,
    mask: NDArray[np.bool_],
    swaps: NDArray[np.intp],
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    """(K', n) mutants of `mask` (n,), the k-th with `swaps[k]` units exchanged, or as many as there are.

    Those that break a floor are left out.

    Units that come back and units that go are drawn without replacement, all alike.
    """
    masks = np.repeat(mask[None], len(swaps), axis=0)
    keys = rng.random(masks.shape)
    for side in (mask, ~mask):
        units = np.flatnonzero(side)
        order = units[np.argsort(-keys[:, units], axis=1)]
        most = min(int(swaps.max(initial=0)), order.shape[1])
        exchanged = np.arange(most)[None] < swaps[:, None]
        rows, places = np.nonzero(exchanged)
        masks[rows, order[rows, places]] ^= True
    same_count = masks.sum(axis=1) == mask.sum()  # a side may have fewer units than swaps
    return np.asarray(masks[same_count & keeps_floors(space, masks)])


def swapped_inside(
    space: UnitSpace, mask: NDArray[np.bool_], swaps: NDArray[np.intp], rng: np.random.Generator
) -> NDArray[np.bool_]:
    """`swapped` with every exchange inside one group, so that the counts per group stay as they are.

    All pairs (one unit that comes back, one that goes) are alike, so a group is drawn with the weight of its pairs.
    """
    gone = space.counts(mask)
    pairs = (gone * (np.asarray(space.sizes) - gone)).astype(float)
    if not pairs.any():
        return np.empty((0, len(mask)), bool)
    masks = np.repeat(mask[None], len(swaps), axis=0)
    for row, number in zip(masks, swaps, strict=True):
        for group in rng.choice(len(pairs), size=number, p=pairs / pairs.sum()):
            inside = row[space.spans[group]]  # a view: counts inside never change, so both sides have units
            inside[[rng.choice(np.flatnonzero(inside)), rng.choice(np.flatnonzero(~inside))]] ^= True
    return masks


def flip_costs(energy: Energy, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(n,) by how much the surrogate's energy rises when one unit alone is flipped: its marginals at `mask`."""
    flipped = np.repeat(mask[None], len(mask), axis=0) ^ np.eye(len(mask), dtype=bool)
    costs: NDArray[np.float64] = energy(flipped) - energy(mask[None])
    return costs
