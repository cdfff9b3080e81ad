"""A tensor train over masks, restricted to an exact count: normaliser, sampler, likelihood and its gradient.

Cores are positive arrays (r, 2, r'), the first and last rank 1, as teneva keeps them; P(x) is the tensor's entry at x divided
by the sum Z of its entries over all x with exactly `count` ones. Equations are those of the counter-state sampler:

    (1)  Z_d[c] = 1 if c = 0 else 0
    (2)  Z_j[c] = G_j[:,0,:] Z_{j+1}[c] + G_j[:,1,:] Z_{j+1}[c-1]
    (3)  P(x_j = 1 | q, c) = q'G_j[:,1,:] Z_{j+1}[c-1] / (q'G_j[:,0,:] Z_{j+1}[c] + q'G_j[:,1,:] Z_{j+1}[c-1])

with (q, c) the state before unit j: q the product of the cores so far, c the number of ones still to place. Z_j[c] spans
hundreds of orders of magnitude, so each is kept as a vector of largest entry 1 and the logarithm of its scale.

The units may be divided into segments with a count each (the channel counts of groups, say). Then c is what is left to place in
the unit's own segment: where a segment of count k begins, Z[0] of the one before it is Z[k] of this one, and no other c is
possible. The train still runs through all segments, so that what it learns of one depends on the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import teneva  # type: ignore[import-untyped]
from numpy.typing import NDArray

__all__ = ["CountedTrain"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class _States:
    """Vectors `unit` (count + 1, r) times exp(`log` (count + 1,)); log is -inf where a count cannot be reached."""

    unit: Array
    log: Array

    @classmethod
    def end(cls, count: int) -> _States:
        """Equation (1)."""
        return cls(np.ones((1, 1)), np.zeros(1)).joined(0, count)

    def joined(self, done: int, count: int) -> _States:
        """The states at the border of a segment: `done` here is 0 there, of `count` at most."""
        log = np.full(count + 1, -np.inf)
        log[0] = self.log[done]
        return _States(np.repeat(self.unit[done : done + 1], count + 1, axis=0), log)

    def before(self, zero: Array, one: Array) -> _States:
        """Equation (2), for the slices G_j[:,0,:] and G_j[:,1,:]."""
        shifted = np.concatenate(([-np.inf], self.log[:-1]))
        top = np.maximum(self.log, shifted)
        reachable = np.where(np.isfinite(top), top, 0)
        kept = self.unit * np.exp(self.log - reachable)[:, None]
        moved = np.zeros_like(self.unit)
        moved[1:] = self.unit[:-1] * np.exp(shifted[1:] - reachable[1:])[:, None]
        sums = kept @ zero.T + moved @ one.T
        largest = sums.max(axis=1)
        safe = np.where(largest > 0, largest, 1)
        with np.errstate(divide="ignore"):
            return _States(sums / safe[:, None], np.log(largest) + reachable)


class CountedTrain:
    """P over the masks of d units with exactly `counts[s]` ones in segment s, from positive cores.

    `lengths` are those of the segments, in order, and sum to d. Computes its states once: O(d count r^2).
    """

    def __init__(self, cores: Sequence[Array], counts: Sequence[int], lengths: Sequence[int] | None = None) -> None:
        self.cores = tuple(cores)
        self.counts = tuple(counts)
        lengths = (len(self.cores),) if lengths is None else lengths
        assert sum(lengths) == len(self.cores)
        assert all(0 <= count <= length for count, length in zip(self.counts, lengths, strict=True))
        self._of = np.repeat(self.counts, lengths)  # (d,) the count of each unit's segment
        borders = np.cumsum((0, *lengths))[:-1]
        self._starts = frozenset(borders[np.asarray(lengths) > 0].tolist())  # the first unit of every segment
        after = []
        state = _States.end(int(self._of[-1])) if self.cores else _States.end(0)
        for j in reversed(range(len(self.cores))):
            after.append(state)
            state = state.before(self.cores[j][:, 0, :], self.cores[j][:, 1, :])
            if j in self._starts and j > 0:
                state = state.joined(int(self._of[j]), int(self._of[j - 1]))
        self._after = tuple(reversed(after))  # after[j] = Z_{j+1}, what follows unit j
        first = int(self._of[0]) if self.cores else 0
        self.log_normaliser = float(state.log[first] + np.log(state.unit[first, 0]))

    def sample(self, number: int, rng: np.random.Generator) -> NDArray[np.bool_]:
        """(number, d) masks drawn from P, each with exactly the counts of its segments, by equation (3): O(d r^2) each."""
        masks = np.zeros((number, len(self.cores)), bool)
        state = np.ones((number, 1))
        left = np.zeros(number, np.intp)
        for j, (core, after) in enumerate(zip(self.cores, self._after, strict=True)):
            if j in self._starts:
                left = np.full(number, self._of[j])
            weight = [self._weight(state @ core[:, 0, :], left, after), self._weight(state @ core[:, 1, :], left - 1, after)]
            top = np.maximum(*(log for _, log in weight))
            zero, one = (value * np.exp(log - top) for value, log in weight)
            masks[:, j] = rng.random(number) * (zero + one) < one
            left = left - masks[:, j]
            state = np.where(masks[:, j, None], state @ core[:, 1, :], state @ core[:, 0, :])
            state /= state.max(axis=1, keepdims=True)
        return masks

    @staticmethod
    def _weight(state: Array, left: NDArray[np.intp], after: _States) -> tuple[Array, Array]:
        """Values and log scales of q'Z_{j+1}[left]; nothing can follow a negative `left`."""
        log = np.where(left >= 0, after.log[left], -np.inf)
        return np.einsum("kr,kr->k", state, after.unit[left]), log

    def log_probability(self, masks: NDArray[np.bool_]) -> Array:
        """(K,) log P of masks (K, d) with the counts of their segments."""
        values: Array = np.log(teneva.get_many(list(self.cores), masks.astype(int))) - self.log_normaliser
        return values

    def gradient(self, masks: NDArray[np.bool_], weights: Array) -> list[Array]:
        """d/dG of sum_k weights[k] log P(masks[k]), one array per core: the part of the entries less that of Z."""
        parts = [-weights.sum() * part for part in self._normaliser_gradient()]
        for mask, weight in zip(masks, weights, strict=True):
            entry, slopes = teneva.get_and_grad(list(self.cores), mask.astype(int))
            for part, slope in zip(parts, slopes, strict=True):
                part += weight / entry * slope
        return parts

    def marginals(self) -> Array:
        """(d,) P(x_j = 1)."""
        slopes = self._normaliser_gradient()
        return np.array([np.sum(core[:, 1, :] * slope[:, 1, :]) for core, slope in zip(self.cores, slopes, strict=True)])

    def _normaliser_gradient(self) -> list[Array]:
        """The slopes d log Z / dG_j[:, b, :] = sum over c of F_j[c] Z_{j+1}[count - c - b]' / Z.

        F_j[c] is the sum over all that may come before unit j, with c ones in its own segment.
        """
        parts = []
        before = _States.end(0)
        for j, (core, after) in enumerate(zip(self.cores, self._after, strict=True)):
            count = int(self._of[j])
            if j in self._starts:
                before = before.joined(int(self._of[j - 1]) if j else 0, count)
            part = np.empty(core.shape)
            for b in (0, 1):
                rest = np.arange(count - b, -1, -1)  # ones left in the segment after unit j, for c = 0 .. count - b
                placed = slice(0, len(rest))
                scale = np.exp(before.log[placed] + after.log[rest] - self.log_normaliser)
                part[:, b, :] = (before.unit[placed] * scale[:, None]).T @ after.unit[rest]
            parts.append(part)
            before = before.before(core[:, 0, :].T, core[:, 1, :].T)
        return parts
