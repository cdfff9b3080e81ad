"""The quadratic problem: E(x) = sum_i linear_i x_i + sum_{i<j} couplings_ij x_i x_j, where x_i = 1 prunes unit i.

Couplings join units of one group only, so the problem falls apart into one block per group. There is no penalty term: the
capacity search adds -gamma D_i to the linear part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcompress.selection import UnitSpace

if TYPE_CHECKING:
    from dimod import BinaryQuadraticModel

__all__ = ["Problem", "Sign"]

Sign = Literal["none", "nonnegative", "nonpositive", "mixed"]


@dataclass(frozen=True, eq=False)
class Problem:
    """An objective over the units of `space`, the lower the better.

    linear      (n,) Q_ii
    couplings   one (m, m) array per group: symmetric, zero diagonal; entry [i, j] is Q_ij of the unordered pair, counted once
    """

    space: UnitSpace
    linear: NDArray[np.float64]
    couplings: tuple[NDArray[np.float64], ...]

    def __post_init__(self) -> None:
        if self.linear.shape != (len(self.space),) or not np.isfinite(self.linear).all():
            raise ValueError(f"linear must be a finite vector of {len(self.space)} entries, got shape {self.linear.shape}")
        if [c.shape for c in self.couplings] != [(size, size) for size in self.space.sizes]:
            raise ValueError("couplings must hold one square array per group")
        for group, c in zip(self.space.groups, self.couplings, strict=True):
            if not np.isfinite(c).all() or c.diagonal().any() or not np.array_equal(c, c.T):
                raise ValueError(f"couplings of group {group} must be finite and symmetric, with a diagonal of zeros")

    def energy(self, x: ArrayLike) -> NDArray[np.float64]:
        """Energy of x: () for a vector (n,) of 0/1, (K,) for K vectors (K, n)."""
        x = np.asarray(x, np.float64)
        energy = x @ self.linear
        for span, c in zip(self.space.spans, self.couplings, strict=True):
            energy = energy + np.einsum("...i,...i->...", x[..., span] @ c, x[..., span]) / 2
        return np.asarray(energy)

    def fields(self, x: ArrayLike) -> NDArray[np.float64]:
        """(n,) energy of unit i being pruned rather than kept, the others as in x (n,)."""
        x = np.asarray(x, np.float64)
        pulls = [c @ x[span] for span, c in zip(self.space.spans, self.couplings, strict=True)]
        return np.asarray(self.linear + np.concatenate([np.zeros(0), *pulls]))

    def marginals(self, x: ArrayLike) -> NDArray[np.float64]:
        """(n,) energy change of flipping each unit alone, from x (n,)."""
        signs: NDArray[np.float64] = np.where(np.asarray(x, bool), -1.0, 1.0)
        return signs * self.fields(x)

    @property
    def separable_linear(self) -> bool:
        """Whether there are no couplings: then a count budget is solved exactly by sorting."""
        return not any(c.any() for c in self.couplings)

    @property
    def sign(self) -> Sign:
        """Sign of the couplings. With "nonnegative" ones gamma reaches almost every capacity, with others it skips most."""
        least = min((float(c.min()) for c in self.couplings if c.size), default=0.0)
        most = max((float(c.max()) for c in self.couplings if c.size), default=0.0)
        if least < 0 < most:
            return "mixed"
        return "nonnegative" if most > 0 else "nonpositive" if least < 0 else "none"

    def to_bqm(self, gamma: float = 0.0, weights: ArrayLike | None = None) -> BinaryQuadraticModel:
        """As a dimod model: E(x) - gamma * sum_i weights_i x_i (weights: 1 each by default); its variables are the `Unit`s."""
        import dimod

        weights = np.ones(len(self.space)) if weights is None else np.asarray(weights, np.float64)
        rows, columns, values = [np.zeros(0, np.intp)], [np.zeros(0, np.intp)], [np.zeros(0)]
        for span, c in zip(self.space.spans, self.couplings, strict=True):
            i, j = np.nonzero(np.triu(c, 1))
            rows.append(i + span.start)
            columns.append(j + span.start)
            values.append(c[i, j])
        pairs = (np.concatenate(rows), np.concatenate(columns), np.concatenate(values))
        linear = self.linear - gamma * weights
        return dimod.BinaryQuadraticModel.from_numpy_vectors(
            linear, pairs, 0.0, dimod.BINARY, variable_order=list(self.space.units)
        )
