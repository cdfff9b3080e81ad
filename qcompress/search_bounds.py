"""Lower bounds on a group's profile, for groups too large to enumerate: the better of two at every count.

With k units pruned, a pruned unit i costs at least its linear part and half of its k - 1 smallest couplings; the k cheapest
units bound the sum (Gilmore, 1962; Lawler, 1963). Good where couplings are weak.

For x of zeros and ones x_i = x_i^2, so d_i (x_i^2 - x_i) / 2 may be added; with d large enough the energy is convex (Hammer and
Rubin, 1970). A convex function lies above its tangent, and the least value of a tangent at each count is a sum of smallest
entries: valid at whatever point it is taken, good at the minimum.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qcompress.search_profiles import Profile

__all__ = ["lower_bounds"]

Floats = NDArray[np.float64]

SHIFTS = 4
"""So many choices of d are tried; each puts more of it where x is whole and costs nothing."""

STEPS = 60
"""Of the accelerated gradient descent to the minimum of the convex energy."""


def lower_bounds(profile: Profile, k: int) -> Floats:
    """(most + 1,) lower bounds of the least energies at 0, 1, ... units pruned, the tightest around `k`.

    Of an exact profile its energies. The bounds are valid for couplings of any sign, up to rounding.
    """
    if profile.exact:
        return profile.energies
    bounds = _by_rows(profile)
    weights = np.ones(len(profile.linear))
    point = np.full(len(weights), k / len(weights))
    for _ in range(SHIFTS):
        shift = _shift(profile.couplings, weights)
        point = _minimum(profile, shift, point, k)
        bounds = np.maximum(bounds, _by_tangent(profile, shift, point))
        weights = 1 / np.sqrt(point * (1 - point) + 1e-2)
    return np.minimum(bounds, profile.energies)


def _by_rows(profile: Profile) -> Floats:
    size = len(profile.linear)
    halves = profile.couplings / 2
    np.fill_diagonal(halves, np.inf)
    sums = np.cumsum(np.sort(halves, axis=1)[:, : size - 1], axis=1)
    costs = profile.linear[:, None] + np.concatenate((np.zeros((size, 1)), sums), axis=1)
    every = np.concatenate((np.zeros(1), np.cumsum(np.sort(costs, axis=0), axis=0).diagonal()))
    return every[: profile.most + 1]


def _shift(couplings: Floats, weights: Floats) -> Floats:
    """(m,) the smallest multiple of `weights` that makes the couplings positive semidefinite, with a margin for rounding."""
    scale = 1 / np.sqrt(weights)
    lowest = np.linalg.eigvalsh(scale[:, None] * couplings * scale)[0]
    shift: Floats = weights * (max(-float(lowest), 0.0) * (1 + 1e-9) + 1e-12)
    return shift


def _minimum(profile: Profile, shift: Floats, start: Floats, k: int) -> Floats:
    """(m,) near the minimum of the convex energy over 0 <= x <= 1 with sum k: any such point gives a valid tangent."""
    largest = float(np.abs(profile.couplings).sum(1).max() + shift.max()) or 1.0
    point, ahead, inertia = start, start, 1.0
    for _ in range(STEPS):
        moved = _onto(ahead - _gradient(profile, shift, ahead) / largest, k)
        following = (1 + np.sqrt(1 + 4 * inertia * inertia)) / 2
        ahead = moved + (inertia - 1) / following * (moved - point)
        point, inertia = moved, following
    return point


def _gradient(profile: Profile, shift: Floats, x: Floats) -> Floats:
    gradient: Floats = profile.linear - shift / 2 + profile.couplings @ x + shift * x
    return gradient


def _by_tangent(profile: Profile, shift: Floats, point: Floats) -> Floats:
    gradient = _gradient(profile, shift, point)
    at = float((gradient + profile.linear - shift / 2) @ point) / 2
    every = at - float(gradient @ point) + np.concatenate((np.zeros(1), np.cumsum(np.sort(gradient))))
    return every[: profile.most + 1]


def _onto(point: Floats, k: int) -> Floats:
    """The nearest point with 0 <= x <= 1 and sum k: what is taken off every entry, between the ends where one starts or stops.

    From one end to the next the sum falls by as much as entries lie strictly inside.
    """
    ends = np.concatenate((point - 1, point))
    order = ends.argsort()
    ends = ends[order]
    inside = np.where(order < len(point), 1, -1).cumsum()[:-1]
    fallen = np.concatenate((np.zeros(1), (inside * np.diff(ends)).cumsum()))
    return np.clip(point - np.interp(len(point) - k, fallen, ends), 0, 1)
