"""A tensor train over masks, restricted to an exact count: normaliser, sampler, likelihood and its gradient.

Cores are positive arrays (r, 2, r'), the first and last rank 1, as teneva keeps them; P(x) is the tensor's entry at x divided
by the sum Z of its entries over all x with exactly `count` ones. Equations are those of the counter-state sampler:

    (1)  Z_d[c] = 1 if c = 0 else 0
    (2)  Z_j[c] = G_j[:,0,:] Z_{j+1}[c] + G_j[:,1,:] Z_{j+1}[c-1]
    (3)  P(x_j = 1 | q, c) = q'G_j[:,1,:] Z_{j+1}[c-1] / (q'G_j[:,0,:] Z_{j+1}[c] + q'G_j[:,1,:] Z_{j+1}[c-1])

with (q, c) the state before unit j: q the product of the cores so far, c the number of ones still to place. Z_j[c] spans
hundreds of orders of magnitude, so each is kept as a vector of largest entry 1 and the logarithm of its scale.
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
        log = np.full(count + 1, -np.inf)
        log[0] = 0
        return cls(np.ones((count + 1, 1)), log)

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
    """P over the masks of d units with exactly `count` ones, from positive cores. Computes its states once: O(d count r^2)."""

    def __init__(self, cores: Sequence[Array], count: int) -> None:
        self.cores = tuple(cores)
        self.count = count
        assert 0 <= count <= len(self.cores)
        states = [_States.end(count)]
        for core in reversed(self.cores):
            states.append(states[-1].before(core[:, 0, :], core[:, 1, :]))
        self._after = tuple(states[-2::-1])  # after[j] = Z_{j+1}, what follows unit j
        self.log_normaliser = float(states[-1].log[count] + np.log(states[-1].unit[count, 0]))

    def sample(self, number: int, rng: np.random.Generator) -> NDArray[np.bool_]:
        """(number, d) masks drawn from P, each with exactly `count` ones, by equation (3): O(d r^2) each."""
        masks = np.zeros((number, len(self.cores)), bool)
        state = np.ones((number, 1))
        left = np.full(number, self.count)
        for j, (core, after) in enumerate(zip(self.cores, self._after, strict=True)):
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
        """(K,) log P of masks (K, d) with `count` ones."""
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
        """The slopes d log Z / dG_j[:, b, :] = sum over c of F_j[c] Z_{j+1}[count - c - b]' / Z, F_j[c]: c ones before j."""
        parts = []
        before = _States.end(self.count)
        for core, after in zip(self.cores, self._after, strict=True):
            part = np.empty(core.shape)
            for b in (0, 1):
                rest = np.arange(self.count - b, -1, -1)  # ones left after unit j, for c = 0 .. count - b
                placed = slice(0, len(rest))
                scale = np.exp(before.log[placed] + after.log[rest] - self.log_normaliser)
                part[:, b, :] = (before.unit[placed] * scale[:, None]).T @ after.unit[rest]
            parts.append(part)
            before = before.before(core[:, 0, :].T, core[:, 1, :].T)
        return parts
