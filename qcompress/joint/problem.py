"""Units and widths as one quadratic problem: every layer that has a choice brings a group whose units are steps of its width.

The steps are a thermometer: with k of them pruned the layer has the k-th narrower width. Taken in order, each costs what it
adds to the loss. A step ahead of its turn costs more than all steps together, where the losses alone would not keep the order.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcompress.problem import Problem
from qcompress.search_profiles import Profile
from qcompress.selection import Selection, UnitSpace

__all__ = ["JointSpace", "of_profiles", "thermometer"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class JointSpace:
    """The units of a network, and behind them a group of width steps for each of `layers`, which has `steps` of them."""

    units: UnitSpace
    layers: tuple[str, ...]
    steps: tuple[int, ...]

    @property
    def whole(self) -> UnitSpace:
        """All groups. Those of steps may be pruned whole."""
        names = (*self.units.groups, *(f"width of {layer}" for layer in self.layers))
        return UnitSpace(names, (*self.units.sizes, *self.steps), (*self.units.floors, *(0 for _ in self.steps)))

    def problem(self, units: Problem, losses: Sequence[Floats]) -> Problem:
        """`units`, a problem over the network's units, with what the widths lose: per layer (steps + 1,), the widest first."""
        steps = [thermometer(np.asarray(own, np.float64)) for own in losses]
        linear = np.concatenate([units.linear, *(own for own, _ in steps)])
        return Problem(self.whole, linear, (*units.couplings, *(pairs for _, pairs in steps)))

    def network(self, selection: Selection) -> Selection:
        """What of `selection` are units of the network."""
        return Selection.of(self.units, selection.x[: len(self.units)])


def of_profiles(space: UnitSpace, profiles: Sequence[Profile]) -> Problem:
    """The problem over `space` whose least energies are those of `profiles`, with the units that they name.

    The rows of each profile are nested: its units leave one after the other.
    """
    linear, couplings = np.zeros(len(space)), []
    for span, profile, size in zip(space.spans, profiles, space.sizes, strict=True):
        steps = itertools.pairwise(profile.rows)
        order = np.array([int(np.flatnonzero(after & ~before)[0]) for before, after in steps], np.intp)
        order = np.concatenate((order, np.setdiff1d(np.arange(size), order)))
        beyond = np.full(size - profile.most, profile.energies[-1])  # the floor keeps these; they have some energy
        own, pairs = thermometer(np.concatenate((profile.energies, beyond)))
        linear[span][order] = own
        block = np.zeros((size, size))
        block[np.ix_(order, order)] = pairs
        couplings.append(block)
    return Problem(space, linear, tuple(couplings))


def thermometer(energies: Floats) -> tuple[Floats, Floats]:
    """Linear part (m,) and couplings (m, m) over m steps whose least energy with k taken is energies[k] - energies[0].

    `energies` (m + 1,). The least is at the first k, and at no others where two of them would do as well.
    """
    rises = np.diff(energies)
    linear, couplings = rises.copy(), np.zeros((len(rises), len(rises)))
    if len(rises) > 1 and not (np.diff(rises) > 0).all():
        charge = 2 * float(np.abs(rises).sum()) or 1.0
        linear[1:] += charge  # paid by a step whose predecessor is not taken
        places = np.arange(1, len(rises))
        couplings[places, places - 1] = couplings[places - 1, places] = -charge
    return linear, couplings
