"""The quadratic problem: E(x) = sum_i linear_i x_i + sum_{i<j} couplings_ij x_i x_j, where x_i = 1 prunes unit i.

Most objectives couple units of one group only; their problems are separable: they fall apart into one block per group. There is
no penalty term: the capacity search adds -gamma D_i to the linear part.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcompress.errors import UsageError
from qcompress.selection import UnitSpace

if TYPE_CHECKING:
    from dimod import BinaryQuadraticModel

__all__ = ["LARGEST_CROSS", "Problem", "Sign", "holding"]

LARGEST_CROSS = 8192
"""Units of the largest problem with couplings between groups: they are one array, of 512 MiB then."""

Sign = Literal["none", "nonnegative", "nonpositive", "mixed"]


@dataclass(frozen=True, eq=False)
class Problem:
    """An objective over the units of `space`, the lower the better.

    linear      (n,) Q_ii
    couplings   one (m, m) array per group: symmetric, zero diagonal; entry [i, j] is Q_ij of the unordered pair, counted once
    cross       (n, n) the same between units of different groups: symmetric, zero inside groups; None for a separable problem

    Raises ValueError for arrays that are not so, UsageError for `cross` over more than `LARGEST_CROSS` units.
    """

    space: UnitSpace
    linear: NDArray[np.float64]
    couplings: tuple[NDArray[np.float64], ...]
    cross: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        if self.linear.shape != (len(self.space),) or not np.isfinite(self.linear).all():
            raise ValueError(f"linear must be a finite vector of {len(self.space)} entries, got shape {self.linear.shape}")
        if [c.shape for c in self.couplings] != [(size, size) for size in self.space.sizes]:
            raise ValueError("couplings must hold one square array per group")
        for group, c in zip(self.space.groups, self.couplings, strict=True):
            if not np.isfinite(c).all() or c.diagonal().any() or not np.array_equal(c, c.T):
                raise ValueError(f"couplings of group {group} must be finite and symmetric, with a diagonal of zeros")
        if self.cross is not None:
            self._check_cross(self.cross)

    def _check_cross(self, cross: NDArray[np.float64]) -> None:
        n = len(self.space)
        if n > LARGEST_CROSS:
            raise UsageError(
                f"couplings between groups of {n} units, expected at most {LARGEST_CROSS}",
                "choose an objective without them, such as hybrid",
            )
        if cross.shape != (n, n) or not np.isfinite(cross).all() or not np.array_equal(cross, cross.T):
            raise ValueError(f"cross must be a finite, symmetric array of {n} by {n}, got shape {cross.shape}")
        for group, span in zip(self.space.groups, self.space.spans, strict=True):
            if cross[span, span].any():
                raise ValueError(f"cross must be zero inside groups, it is not in group {group}")

    def energy(self, x: ArrayLike) -> NDArray[np.float64]:
        """Energy of x: () for a vector (n,) of 0/1, (K,) for K vectors (K, n)."""
        x = np.asarray(x, np.float64)
        energy = x @ self.linear
        for span, c in zip(self.space.spans, self.couplings, strict=True):
            energy = energy + np.einsum("...i,...i->...", x[..., span] @ c, x[..., span]) / 2
        if self.cross is not None:
            energy = energy + np.einsum("...i,...i->...", x @ self.cross, x) / 2
        return np.asarray(energy)

    def fields(self, x: ArrayLike) -> NDArray[np.float64]:
        """(n,) energy of unit i being pruned rather than kept, the others as in x (n,)."""
        x = np.asarray(x, np.float64)
        pulls = [c @ x[span] for span, c in zip(self.space.spans, self.couplings, strict=True)]
        fields = self.linear + np.concatenate([np.zeros(0), *pulls])
        return np.asarray(fields if self.cross is None else fields + self.cross @ x)

    def marginals(self, x: ArrayLike) -> NDArray[np.float64]:
        """(n,) energy change of flipping each unit alone, from x (n,)."""
        signs: NDArray[np.float64] = np.where(np.asarray(x, bool), -1.0, 1.0)
        return signs * self.fields(x)

    @cached_property
    def separable(self) -> bool:
        """Whether no coupling joins two groups: then the groups' profiles are all that a search needs."""
        return self.cross is None or not self.cross.any()

    @property
    def separable_linear(self) -> bool:
        """Whether there are no couplings: then a count budget is solved exactly by sorting."""
        return self.separable and not any(c.any() for c in self.couplings)

    @property
    def inside(self) -> Problem:
        """The part without couplings between groups."""
        return self if self.cross is None else Problem(self.space, self.linear, self.couplings)

    def below(self, most: int) -> Problem:
        """A separable problem whose energy is never above this one's, for selections of at most `most` units.

        Each unit's linear part takes half of the most negative couplings to other groups that so many units can bring.
        """
        if self.cross is None:
            return self
        helps = np.sort(np.minimum(self.cross, 0), axis=1)[:, : max(most - 1, 0)].sum(1) / 2
        return Problem(self.space, self.linear + helps, self.couplings)

    def matrix(self) -> NDArray[np.float64]:
        """(n, n) all couplings, symmetric with a zero diagonal; a fresh array.

        Raises UsageError above `LARGEST_CROSS` units.
        """
        n = len(self.space)
        if n > LARGEST_CROSS:
            raise UsageError(f"all couplings of {n} units as one array, expected at most {LARGEST_CROSS}")
        matrix = np.zeros((n, n)) if self.cross is None else self.cross.copy()
        for span, c in zip(self.space.spans, self.couplings, strict=True):
            matrix[span, span] = c
        return matrix

    @property
    def sign(self) -> Sign:
        """Sign of the couplings. With "nonnegative" ones gamma reaches almost every capacity, with others it skips most."""
        arrays = [*self.couplings, *([] if self.cross is None else [self.cross])]
        least = min((float(c.min()) for c in arrays if c.size), default=0.0)
        most = max((float(c.max()) for c in arrays if c.size), default=0.0)
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
        if self.cross is not None:
            i, j = np.nonzero(np.triu(self.cross, 1))
            rows.append(i)
            columns.append(j)
            values.append(self.cross[i, j])
        pairs = (np.concatenate(rows), np.concatenate(columns), np.concatenate(values))
        linear = self.linear - gamma * weights
        return dimod.BinaryQuadraticModel.from_numpy_vectors(
            linear, pairs, 0.0, dimod.BINARY, variable_order=list(self.space.units)
        )


def holding(problem: Problem, pruned: NDArray[np.bool_]) -> Problem:
    """`problem` with so much off the energy of each of the units `pruned` (n,) that no exchange for another one pays.

    They are restored only where a selection has to have fewer of their group.
    """
    pulls = [np.abs(c).sum(1) for c in problem.couplings]
    reach = np.abs(problem.linear) + np.concatenate([np.zeros(0), *pulls])
    if problem.cross is not None:
        reach = reach + np.abs(problem.cross).sum(1)
    bonus = 2 * float(reach.max(initial=0.0))
    return Problem(problem.space, problem.linear - bonus * pruned, problem.couplings, problem.cross)
