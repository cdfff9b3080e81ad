"""The loss after a static repair as a quadratic problem around one selection: exact for every one and every two flips there.

A part's moments are swept on the columns that are kept (a principal pivot transform, Tsatsomeros, 2000): then flipping any set
F of units, coming back or going, changes the part's loss by  -|U_F' (A_FF)^-1 U_F|, with A the swept moments and U the swept
targets. One such block per unit gives the linear part, one per pair the couplings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qcompress.problem import Problem
from qcompress.reconstruction.parts import Part
from qcompress.selection import UnitSpace

__all__ = ["Reconstruction"]

_PAIRS = 2**22  # numbers in the blocks of pairs that are solved at once


class Reconstruction:
    """The loss of any selection after a static repair, and its expansion there. Moves from selection to selection."""

    def __init__(self, space: UnitSpace, parts: Sequence[Part]) -> None:
        self.space, self._sweeps = space, [_Sweep(part) for part in parts]
        self._x = np.zeros(len(space), bool)

    def loss(self, x: NDArray[np.bool_]) -> float:
        """The loss of x (n,), relative to the dense network; the expansion is at x from now on."""
        flips: dict[int, list[int]] = {}
        for place in np.flatnonzero(x != self._x).tolist():
            group = int(self.space.group_of[place])
            flips.setdefault(group, []).append(place - self.space.spans[group].start)
        for sweep in self._sweeps:
            columns = [sweep.columns[group][units].flatten() for group, units in flips.items() if group in sweep.columns]
            if columns:
                sweep.pivot(torch.cat(columns))
        self._x = np.array(x, bool)
        return sum(sweep.loss for sweep in self._sweeps)

    def expansion(self, scale: NDArray[np.float64] | None = None) -> Problem:
        """The problem whose energies differ from that of the present x as the losses do, for one and two flips in one group.

        `scale` (G,) multiplies the part of each group.
        """
        linear, couplings = np.zeros(len(self.space)), []
        for group, (span, factor) in enumerate(zip(self.space.spans, self._factors(scale), strict=True)):
            singles, pairs = self._changes(group, span.stop - span.start)
            turned = np.where(self._x[span], -1.0, 1.0)
            joint = pairs - singles[:, None] - singles[None]
            np.fill_diagonal(joint, 0.0)
            # E = singles'z + z'joint z / 2 in flips z = x where the unit stays at present, 1 - x where it does not
            linear[span] = factor * turned * (singles + joint @ self._x[span])
            joint = factor * joint * np.outer(turned, turned)
            couplings.append((joint + joint.T) / 2)
        return Problem(self.space, linear, tuple(couplings))

    def _factors(self, scale: NDArray[np.float64] | None) -> Iterator[float]:
        return iter((np.ones(len(self.space.sizes)) if scale is None else scale).tolist())

    def _changes(self, group: int, size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(m,) and (m, m) changes of the loss by flipping one unit, or two."""
        singles, pairs = np.zeros(size), np.zeros((size, size))
        first, second = np.triu_indices(size, 1)
        for sweep in self._sweeps:
            if group in sweep.columns:
                columns = sweep.columns[group]
                products = sweep.products()
                singles += sweep.changes(columns, products)
                step = max(1, _PAIRS // (4 * columns.shape[1] ** 2))
                for start in range(0, len(first), step):
                    i, j = first[start : start + step], second[start : start + step]
                    pairs[i, j] += sweep.changes(torch.cat((columns[i], columns[j]), 1), products)
        return singles, pairs + pairs.T


class _Sweep:
    """One part, swept on the columns that are kept."""

    def __init__(self, part: Part) -> None:
        self.columns = part.columns
        self.swept, self.targets = -part.inverse, part.targets
        self.loss = 0.0

    def pivot(self, flipped: Tensor) -> None:
        """Columns that are kept go, and those that are gone come back."""
        across, held = self.swept[:, flipped], self.targets[flipped]
        inverse = torch.linalg.inv(across[flipped])
        rows, targets = inverse @ across.T, inverse @ held
        self.loss -= float((held * targets).sum())
        swept = self.swept - across @ rows
        swept[flipped] = rows
        swept[:, flipped] = rows.T
        swept[flipped[:, None], flipped] = -inverse
        self.targets = self.targets - across @ targets
        self.targets[flipped] = targets
        self.swept = (swept + swept.T) / 2

    def products(self) -> Tensor:
        """(D, D) of the rows of the targets."""
        return self.targets @ self.targets.T

    def changes(self, columns: Tensor, products: Tensor) -> NDArray[np.float64]:
        """(K,) changes of the loss by flipping each of K sets of columns (K, c) alone: -trace of A_FF^-1 (U U')_FF."""
        blocks, held = (of[columns[:, :, None], columns[:, None, :]] for of in (self.swept, products))
        found: NDArray[np.float64] = -torch.linalg.solve(blocks, held).diagonal(dim1=1, dim2=2).sum(1).cpu().numpy()
        return found
