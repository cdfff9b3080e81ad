"""What is believed about masks not measured yet: the surrogate, corrected by everything that was measured."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular

from qcompress.refine.contract import Energy, Measured

__all__ = ["Belief"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class _Weights:
    """Variances of the parts of the kernel, for one swap, relative to each other."""

    energy: float
    linear: float
    pairs: float
    noise: float


_GRID = tuple(
    _Weights(1.0, linear, pairs * linear, noise * (1 + linear))
    for linear, pairs, noise in itertools.product((0.1, 0.5, 2.0, 8.0), (0.03, 0.3), (0.01, 0.1))
)


class Belief:
    """Gaussian process over masks around the incumbent, in dB relative to it.

    With u = mask - incumbent and e = the surrogate's energy difference: k(u, u') = w_e e e' + w_1 u.u' + w_2 (u.u')^2: a slope
    for the surrogate, an own effect of every unit, an own effect of every pair of flipped units. The weights are those of
    the highest marginal likelihood on a small grid. It looks at the `window` measured masks nearest to the incumbent.
    """

    def __init__(self, energy: Energy | None, window: int = 400, refit_every: int = 40) -> None:
        self._energy, self._window, self._refit_every = energy, window, refit_every
        self._masks: list[NDArray[np.bool_]] = []
        self._values: list[float] = []
        self._energies: list[float] = []
        self._whole: list[bool] = []
        self._best = -1
        self._weights: _Weights = _GRID[0]
        self._fitted_at = 0

    def tell(self, measured: Measured) -> None:
        """Takes in what was measured, and fits."""
        energies = np.zeros(len(measured.masks)) if self._energy is None else self._energy(measured.masks)
        for mask, value, energy, whole in zip(measured.masks, measured.values, energies, measured.whole, strict=True):
            self._masks.append(mask)
            self._values.append(float(value))
            self._energies.append(float(energy))
            self._whole.append(bool(whole))
            if whole and (self._best < 0 or value > self._values[self._best]):
                self._best = len(self._values) - 1
        self._fit()

    @property
    def size(self) -> int:
        """Number of masks told."""
        return len(self._values)

    def predict(self, masks: NDArray[np.bool_]) -> tuple[Array, Array]:
        """(K,) expected gain over the incumbent in dB, and (K,) standard deviation."""
        u, e = self._features(masks, None if self._energy is None else self._energy(masks))
        cross = self._kernel(u, e, self._u, self._e)
        overlap = np.einsum("ki,ki->k", u, u) / 2
        prior = self._weights.energy * e * e + self._weights.linear * overlap + self._weights.pairs * overlap**2
        halves = solve_triangular(self._factor[0], cross.T, lower=True)
        variance = self._amplitude * np.maximum(prior - np.sum(halves**2, axis=0), 1e-12)
        return cross @ self._solved, np.sqrt(variance)

    def _features(self, masks: NDArray[np.bool_], energies: Array | None) -> tuple[Array, Array]:
        u = masks.astype(float) - self._masks[self._best]
        e = np.zeros(len(masks)) if energies is None else (energies - self._energies[self._best]) / self._energy_scale
        return u, e

    def _kernel(self, u: Array, e: Array, v: Array, f: Array, weights: _Weights | None = None) -> Array:
        w = weights or self._weights
        overlap = u @ v.T / 2
        return w.energy * np.outer(e, f) + w.linear * overlap + w.pairs * overlap**2

    def _fit(self) -> None:
        masks, values, energies = np.array(self._masks), np.array(self._values), np.array(self._energies)
        distance = (masks != masks[self._best]).sum(axis=1)
        near = np.argsort(distance, kind="stable")[: self._window]
        self._energy_scale = float(np.abs(energies[near] - energies[self._best]).mean()) or 1.0
        self._u, self._e = self._features(masks[near], energies[near])
        target = values[near] - values[self._best]
        partial = ~np.array(self._whole)[near]
        if len(values) >= self._fitted_at + self._refit_every or self._fitted_at == 0:
            self._weights = max(_GRID, key=lambda weights: self._solve(target, partial, weights))
            self._fitted_at = len(values)
        self._solve(target, partial, self._weights)

    def _solve(self, target: Array, partial: NDArray[np.bool_], weights: _Weights) -> float:
        """Solves for the dual weights; returns the log marginal likelihood, its amplitude maximised out."""
        kernel = self._kernel(self._u, self._e, self._u, self._e, weights)
        kernel[np.diag_indices_from(kernel)] += weights.noise * (1 + 2 * partial)
        self._factor = cho_factor(kernel, lower=True)
        self._solved = cho_solve(self._factor, target)
        self._amplitude = max(float(target @ self._solved) / len(target), 1e-12)
        return -0.5 * len(target) * np.log(self._amplitude) - float(np.log(np.diag(self._factor[0])).sum())
