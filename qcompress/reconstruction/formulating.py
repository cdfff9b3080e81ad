"""The objective `reconstruction`: what a selection costs once the layers behind it are repaired, as a QUBO near its optimum.

The loss after a repair is no quadratic in the units: what a unit is worth depends on all that could stand in for it. So each
group is eliminated unit by unit, which gives its loss at every count; the counts are allocated at the budget; and around the
selection found, the loss is expanded into a quadratic problem, exact there for every one and two flips. The capacity search
solves that with whatever backend, so that an exchange which pays is made. Far from the selection the expansion is wrong, mostly
too hopeful, so each flip is charged a price, as small as keeps its solution at least as good as where it began.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from qcompress.alignment import Alignment
from qcompress.budgets import Budget
from qcompress.data.images import CalibrationCrops
from qcompress.groups import Groups
from qcompress.joint.choice import Solve, Solved
from qcompress.metrics import Metric
from qcompress.problem import Problem
from qcompress.progress import Advance
from qcompress.reconstruction.calibration import calibrate
from qcompress.reconstruction.elimination import eliminate
from qcompress.reconstruction.expansion import Reconstruction
from qcompress.reconstruction.parts import Part, parts_of
from qcompress.reconstruction.sensitivity import measure_sensitivity
from qcompress.recover.moments import SecondMoments
from qcompress.recover.static import StaticRepair
from qcompress.search import allocate, to_capacity
from qcompress.search_profiles import Profile
from qcompress.selection import Selection
from qcompress.solvers.profile import Profiles

__all__ = ["Eliminated", "Formulated", "eliminated", "expanded", "formulate"]

_DOUBLINGS = 16
_ROUNDING = 1e-9  # of the loss: differences below are none


@dataclass(frozen=True, eq=False)
class Eliminated:
    """Everything about the groups that does not depend on the budget: their profiles, and the parts they were made from.

    predicted  per group (most + 1,) the least-squares losses; `profiles` have them corrected
    measurements  candidates measured for that, see `calibrate`
    ratio  profiles' unit over the unit of `metric.chooser`, in which losses are measured; 1 where nothing was measured
    """

    groups: Groups
    parts: tuple[Part, ...]
    profiles: tuple[Profile, ...]
    predicted: tuple[NDArray[np.float64], ...]
    measurements: int
    ratio: float = 1.0


@dataclass(frozen=True, eq=False)
class Formulated:
    """The problem near `start`, the selection that elimination and allocation gave; `price` is charged for every flip."""

    problem: Problem
    start: Selection
    price: float


def eliminated(
    model: nn.Module,
    groups: Groups,
    crops: CalibrationCrops,
    metric: Metric,
    moments: Mapping[str, SecondMoments],
    *,
    calibrated: bool = True,
    progress: Advance | None = None,
) -> Eliminated:
    """Sensitivities, elimination and measurement. `moments` are those of all consumers on `crops`.

    `progress` is told the share done, 0..1. The network is left as it was.
    """
    feels = measure_sensitivity(
        model, groups.consumers, crops, progress=progress and (lambda done, note="": progress(0.2 * done, note))
    )
    parts = parts_of(groups, moments, feels)
    orders, losses = [], []
    for number, (group, floor) in enumerate(zip(groups.groups, groups.space.floors, strict=True)):
        seeing = [part for part in parts if number in part.columns]
        order, loss = eliminate(seeing, number, group.size, group.size - floor)
        orders.append(order)
        losses.append(loss)
        if progress:
            progress(0.2 + 0.3 * (number + 1) / len(groups.groups))
    energies, calls, ratio = losses, 0, 1.0
    if calibrated:
        rest = progress and (lambda done, note="": progress(0.5 + 0.5 * done, note))
        energies, calls, ratio = calibrate(model, groups, crops, metric, StaticRepair(model, moments), orders, losses, rest)
    profiles = tuple(
        _profile(order, energy, size) for order, energy, size in zip(orders, energies, groups.space.sizes, strict=True)
    )
    return Eliminated(groups, parts, profiles, tuple(losses), calls, ratio)


def formulate(known: Eliminated, target: Budget, alignment: Alignment, seed: int) -> Formulated:
    """The problem at a budget, and allowed counts per group.

    Raises UsageError for a target beyond what allowed counts free.
    """
    counts = allocate(known.profiles, target, alignment)
    rows = [profile.rows[k] for profile, k in zip(known.profiles, counts.tolist(), strict=True)]

    def solve(problem: Problem) -> Solved:
        return Solved(to_capacity(problem, target, Profiles(), seed, align=alignment, certified=False).selection)

    return expanded(known, np.concatenate([np.zeros(0, bool), *rows]), solve)


def expanded(known: Eliminated, start: NDArray[np.bool_], solve: Solve) -> Formulated:
    """The problem near `start` (n,), units as the profiles have them, whatever is chosen besides them.

    `solve` chooses in a problem as the search will. The price is such that what it chooses loses no more than the start.
    """
    space = known.groups.space
    counts = space.counts(start).tolist()
    scale = np.array([_factor(*item) for item in zip(known.profiles, known.predicted, counts, strict=True)])
    model = Reconstruction(space, known.parts)
    base = max(model.loss(start), 0.0)
    local = model.expansion(scale)

    def worse(found: Solved) -> bool:
        return _change(model, start, base, found.selection.x, scale) + found.besides > _ROUNDING * base

    price = _price(local, start, solve, worse, base / max(int(start.sum()), 1) / 8)
    return Formulated(_priced(local, start, price), Selection.of(space, start), price)


def _profile(order: NDArray[np.intp], energies: NDArray[np.float64], size: int) -> Profile:
    rows = np.zeros((len(order) + 1, size), bool)
    for count, unit in enumerate(order.tolist(), 1):
        rows[count:, unit] = True
    return Profile(np.zeros(size), np.zeros((size, size)), energies, rows)


def _factor(profile: Profile, predicted: NDArray[np.float64], count: int) -> float:
    """Corrected over predicted loss of a group at its count; at 0, where it begins to lose."""
    at = max(count, min(1, profile.most))
    return float(profile.energies[at] / predicted[at]) if predicted[at] > 0 else 1.0


def _change(
    model: Reconstruction, start: NDArray[np.bool_], base: float, x: NDArray[np.bool_], scale: NDArray[np.float64]
) -> float:
    """By how much the corrected loss of x is above that of the start, group by group."""
    total = 0.0
    for span, factor in zip(model.space.spans, scale.tolist(), strict=True):
        if (x[span] != start[span]).any():
            trial = start.copy()
            trial[span] = x[span]
            total += factor * (model.loss(trial) - base)
    model.loss(start)
    return total


def _priced(local: Problem, start: NDArray[np.bool_], price: float) -> Problem:
    """`local`, with `price` charged for every unit that is not where it is in `start`."""
    return Problem(local.space, local.linear + price * np.where(start, -1.0, 1.0), local.couplings)


def _price(local: Problem, start: NDArray[np.bool_], solve: Solve, worse: Callable[[Solved], bool], first: float) -> float:
    """The smallest price tried at which the solution is not worse than the start; if need be one at which it is the start."""
    price = first
    for _ in range(_DOUBLINGS if first > 0 else 1):
        found = solve(_priced(local, start, price))
        if np.array_equal(found.selection.x, start) or not worse(found):
            return price
        price *= 2
    pulls = np.concatenate([np.zeros(0), *(np.abs(c).sum(1) for c in local.couplings)])
    return float((np.abs(local.linear) + pulls).sum())
