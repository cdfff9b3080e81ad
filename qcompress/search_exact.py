"""Profiles of small groups by enumeration: the least energy of every count, proven."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qcompress.search_profiles import Profile

__all__ = ["enumerate_profile", "enumerate_small", "subset_energies"]

LARGEST = 20
"""Units of the largest group that is enumerated: 2**20 states take some 30 ms."""

STATES = 1 << 22
"""So many states are enumerated in one search; the smallest groups come first."""


def enumerate_small(profiles: Sequence[Profile]) -> None:
    """Makes the profiles of the smallest coupled groups exact, as many as `STATES` allow."""
    left = STATES
    for profile in sorted(profiles, key=lambda profile: len(profile.linear)):
        size = len(profile.linear)
        if size > LARGEST or 1 << size > left:
            return
        if profile.coupled and not profile.exact:
            enumerate_profile(profile)
            left -= 1 << size


def enumerate_profile(profile: Profile) -> None:
    """Makes one profile exact; what it knows stays where no state is lower."""
    energies = subset_energies(profile.linear, profile.couplings)
    counts = subset_energies(np.ones(len(profile.linear)), np.zeros_like(profile.couplings))
    order = np.lexsort((energies, counts))
    first = np.searchsorted(counts[order], np.arange(profile.most + 1))
    states = order[first]
    profile.offer((states[:, None] >> np.arange(len(profile.linear)) & 1).astype(bool))
    profile.exact = True


def subset_energies(linear: NDArray[np.float64], couplings: NDArray[np.float64]) -> NDArray[np.float64]:
    """(2**m,) energies; bit i of the place is unit i. Each unit doubles the table of those before it."""
    energies = np.zeros(1)
    for unit, cost in enumerate(linear.tolist()):
        field = np.full(1, cost)
        for pull in couplings[unit, :unit].tolist():
            field = np.concatenate((field, field + pull))
        energies = np.concatenate((energies, energies + field))
    return energies
