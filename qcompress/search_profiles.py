"""The profile of a group: the lowest energy known for every number of its units pruned, and the units that give it.

Without couplings between groups, profiles are all that the choice of the counts per group needs to know. Every sample that a
backend draws is one point of every group's profile, at whatever gamma it was drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcompress.problem import Problem

__all__ = ["Profile", "greedy_profile", "greedy_profiles"]

PASSES = 20
"""At most so often is a profile improved from its own neighbouring counts; it settles after a few."""

CANDIDATES = 24
"""So many units are tried on either side of a swap of many rows at once: those whose flip alone is best."""


@dataclass
class Profile:
    """Of one group of m units, of which at most `most` may go.

    linear     (m,), couplings (m, m): the group's block of the problem
    energies   (most + 1,) lowest energy known with k units pruned
    rows       (most + 1, m) the pruned units that give it; row k has k of them
    exact      whether `energies` are proven to be the lowest
    """

    linear: NDArray[np.float64]
    couplings: NDArray[np.float64]
    energies: NDArray[np.float64]
    rows: NDArray[np.bool_]
    exact: bool = False

    @property
    def most(self) -> int:
        """The largest count that the group's floor allows."""
        return len(self.rows) - 1

    @property
    def coupled(self) -> bool:
        """Whether it has couplings; without, sorting has made the profile exact."""
        return bool(self.couplings.any())

    def energy(self, rows: NDArray[np.bool_]) -> NDArray[np.float64]:
        """(K,) energies of rows (K, m)."""
        x = rows.astype(np.float64)
        energy: NDArray[np.float64] = x @ self.linear + np.einsum("ki,ki->k", x @ self.couplings, x) / 2
        return energy

    def within_floor(self, rows: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Rows (K, m) with units restored, at the smallest energy change each, until at most `most` are pruned."""
        rows = rows.copy()
        over = np.flatnonzero(rows.sum(1) > self.most)
        while len(over):
            fields = np.where(rows[over], self._fields(rows[over]), -np.inf)
            rows[over, fields.argmax(1)] = False
            over = over[rows[over].sum(1) > self.most]
        return rows

    def offer(self, rows: NDArray[np.bool_]) -> bool:
        """Keep those of rows (K, m), each with at most `most` pruned, that beat what is known; whether any does."""
        energies = self.energy(rows)
        order = np.lexsort((energies, rows.sum(1)))
        counts, first = np.unique(rows[order].sum(1), return_index=True)
        best = order[first]
        better = energies[best] < self.energies[counts] - self._tolerance
        self.energies[counts[better]] = energies[best[better]]
        self.rows[counts[better]] = rows[best[better]]
        return bool(better.any())

    def settle(self, first: int = 0, last: int | None = None) -> None:
        """Improve counts from their neighbours by one unit more or less, and by swaps, until nothing changes.

        Of the counts `first` to `last`, all by default.
        """
        span = slice(max(first, 0), (self.most if last is None else min(last, self.most)) + 1)
        for _ in range(0 if self.exact else PASSES):
            rows = self.rows[span]
            fields = self._fields(rows)
            more, fewer = rows[:-1].copy(), rows[1:].copy()
            places = np.arange(len(more))
            more[places, np.where(more, np.inf, fields[:-1]).argmin(1)] = True
            fewer[places, np.where(fewer, fields[1:], -np.inf).argmax(1)] = False
            changed = self.offer(np.concatenate((more, fewer)))
            if not (self.offer(self.descend(self.rows[span])) or changed):
                return

    def descend(self, rows: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Rows (K, m) after best swaps of a pruned for a kept unit, as long as each lowers the energy; counts stay."""
        rows = rows.copy()
        busy, fields = np.arange(len(rows)), self._fields(rows)
        while len(busy):
            gain, out, into = self._best_swaps(rows[busy], fields)
            moves = gain < -self._tolerance
            busy, fields, out, into = busy[moves], fields[moves], out[moves], into[moves]
            rows[busy, out], rows[busy, into] = False, True
            fields += self.couplings[into] - self.couplings[out]
        return rows

    def _fields(self, rows: NDArray[np.bool_]) -> NDArray[np.float64]:
        fields: NDArray[np.float64] = self.linear + rows.astype(np.float64) @ self.couplings
        return fields

    @property
    def _tolerance(self) -> float:
        """Below it, differences are rounding."""
        return 1e-11 * float(np.abs(self.linear).sum() + np.abs(self.couplings).sum())

    def _best_swaps(
        self, rows: NDArray[np.bool_], fields: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.intp], NDArray[np.intp]]:
        """(K,) energy change, unit restored, unit pruned, of the best swap of each row; change inf where there is none."""
        restore, prune = np.where(rows, -fields, np.inf), np.where(rows, np.inf, fields)
        out, into = _smallest(restore, CANDIDATES), _smallest(prune, CANDIDATES)
        change = (
            np.take_along_axis(restore, out, 1)[:, :, None]
            + np.take_along_axis(prune, into, 1)[:, None, :]
            - self.couplings[out[:, :, None], into[:, None, :]]
        ).reshape(len(rows), -1)
        best = change.argmin(1)
        a, b = np.divmod(best, into.shape[1])
        places = np.arange(len(rows))
        return change[places, best], out[places, a], into[places, b]


def greedy_profiles(problem: Problem) -> tuple[Profile, ...]:
    """One profile per group: units go one after the other, always the one of the smallest energy change."""
    space = problem.space
    blocks = zip(space.spans, problem.couplings, space.sizes, space.floors, strict=True)
    return tuple(greedy_profile(problem.linear[span], c, size - floor) for span, c, size, floor in blocks)


def greedy_profile(linear: NDArray[np.float64], couplings: NDArray[np.float64], most: int) -> Profile:
    """Of one group, up to `most` units pruned. Exact without couplings: greedy pruning then sorts."""
    rows = np.zeros((most + 1, len(linear)), bool)
    field = linear.copy()
    for k in range(most):
        unit = np.where(rows[k], np.inf, field).argmin()
        rows[k + 1] = rows[k]
        rows[k + 1, unit] = True
        field += couplings[unit]
    profile = Profile(linear, couplings, np.zeros(most + 1), rows, exact=not couplings.any())
    profile.energies = profile.energy(rows)
    return profile


def _smallest(values: NDArray[np.float64], number: int) -> NDArray[np.intp]:
    """(K, min(m, number)) places of the smallest entries of each row."""
    number = min(number, values.shape[1])
    places: NDArray[np.intp] = np.argpartition(values, number - 1, axis=1)[:, :number]
    return places
