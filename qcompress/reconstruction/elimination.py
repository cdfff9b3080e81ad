"""Backward elimination: the units of a group leave one after the other, the cheapest first, all others refitted each time.

That is greedy, but not blind: what the units that are left can make up for is counted exactly at every step, so of two alike
units one is cheap and then the other is dear. On four trained networks no exchange of two units improved its result.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qcompress.reconstruction.parts import Part

__all__ = ["eliminate"]

STEPS = 256
"""A group of more units loses several at a time."""


def eliminate(parts: Iterable[Part], group: int, size: int, most: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """(most,) units of the group in the order in which they leave, and (most + 1,) the loss with the first k of them gone.

    `parts` are those that see the group; all other groups are whole. The losses are cumulated, 0 first, and never fall.
    """
    states = [_State(part, part.columns[group]) for part in parts]
    alive = np.ones(size, bool)
    order: list[int] = []
    losses = [0.0]
    stride = max(1, size // STEPS)
    while len(order) < most:
        units = np.flatnonzero(alive)
        costs = sum((state.costs(units) for state in states), np.zeros(len(units)))
        leaving = units[np.argsort(costs, kind="stable")[: min(stride, most - len(order))]]
        before = sum(state.lost for state in states)
        for unit in leaving.tolist():
            for state in states:
                state.remove(unit)
            order.append(unit)
            alive[unit] = False
            # of several at once the loss in between is not their own minimum; it still is what they cost in this order
            losses.append(losses[-1] + sum(state.lost for state in states) - before)
            before = sum(state.lost for state in states)
    return np.array(order, np.intp), np.maximum.accumulate(np.array(losses))


class _State:
    """P = inverse moments and B = fitted weights of what is left of one part, and the loss so far.

    Of the group's own columns alone: what is done to those looks at no others.
    """

    def __init__(self, part: Part, columns: Tensor) -> None:
        own = columns.flatten()
        self.inverse, self.fitted = part.inverse[own[:, None], own], part.targets[own]
        self.columns = torch.arange(len(own), device=own.device).reshape(columns.shape)
        self.lost = 0.0

    def costs(self, units: NDArray[np.intp]) -> NDArray[np.float64]:
        """(len(units),) what the loss rises by if each of them leaves alone."""
        columns = self.columns[torch.from_numpy(units).to(self.columns.device)]
        blocks = self.inverse[columns[:, :, None], columns[:, None, :]]
        held = self.fitted[columns]
        rises: NDArray[np.float64] = (held * torch.linalg.solve(blocks, held)).sum((1, 2)).cpu().numpy()
        return rises

    def remove(self, unit: int) -> None:
        """Without the unit: one block of pivots. What is left is smaller by its columns, so that a group costs a third."""
        gone = self.columns[unit]
        kept = torch.ones(len(self.inverse), dtype=torch.bool, device=gone.device)
        kept[gone] = False
        across, held = self.inverse[kept][:, gone], self.fitted[gone]
        pivots = torch.linalg.solve(self.inverse[gone][:, gone], torch.cat((across.T, held), 1))
        rows, fitted = pivots[:, : len(across)], pivots[:, len(across) :]
        self.lost += float((held * fitted).sum())
        inverse = self.inverse[kept][:, kept] - across @ rows
        self.inverse, self.fitted = (inverse + inverse.T) / 2, self.fitted[kept] - across @ fitted
        self.columns = (kept.cumsum(0) - 1)[self.columns]  # those of units that are gone mean nothing now
