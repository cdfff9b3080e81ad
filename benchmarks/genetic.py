"""A genetic algorithm as a rival of the refinement's proposers: pymoo's, by ask and tell, in generations.

The first generation is the start and mutants of it; parents are drawn by tournaments, crossed uniformly and mutated by flipping
each unit with probability 1/n. Every mask is then repaired: units drawn at random flip until no floor is broken and the count
is exact, or every group's own count where those are to stay. Needs the extra `bench`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pymoo.algorithms.soo.nonconvex.ga import GA
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.core.repair import Repair
from pymoo.operators.crossover.ux import UniformCrossover
from pymoo.operators.mutation.bitflip import BitflipMutation

from qcompress.refine.contract import Energy, Measured, Proposer
from qcompress.refine.swaps import Mutate, swapped, swapped_inside
from qcompress.selection import Selection

__all__ = ["Genetic"]

Mask = NDArray[np.bool_]
_ENDLESS = 10**9  # generations: the refinement's loop ends the search


@dataclass(frozen=True)
class Genetic:
    """`population` masks live, as many children are made in a generation; the first are 1 to `swaps` swaps from the start."""

    population: int = 20
    swaps: int = 4
    inside: bool = False

    def begin(self, start: Selection, energy: Energy | None, rng: np.random.Generator) -> Proposer:
        """Knows the start only."""
        del energy
        return _Generations(self, start, rng)


class _Generations:
    def __init__(self, settings: Genetic, start: Selection, rng: np.random.Generator) -> None:
        mutate: Mutate = swapped_inside if settings.inside else swapped
        first = mutate(start.space, start.x, rng.integers(1, settings.swaps + 1, settings.population - 1), rng)
        self._units = len(start.space)
        self._values: dict[bytes, float] = {}  # of all that was measured
        self._stock: list[Mask] = []
        self._asked: list[Mask] = []
        self._algorithm = GA(
            pop_size=settings.population,
            sampling=np.concatenate((start.x[None], first)),
            crossover=UniformCrossover(),
            mutation=BitflipMutation(),
            repair=_Exact(start, settings.inside, rng),
            eliminate_duplicates=True,
        )
        self._algorithm.setup(
            Problem(n_var=len(start.space), n_obj=1, xl=False, xu=True, vtype=bool),
            termination=("n_gen", _ENDLESS),
            seed=int(rng.integers(2**31)),
        )

    def ask(self, count: int) -> Mask:
        if not self._stock:
            self._breed()
        masks, self._stock = self._stock[:count], self._stock[count:]
        return np.array(masks, bool).reshape(len(masks), self._units)

    def _breed(self) -> None:
        """Ends the generation with those that were measured, and makes the next; none where no new mask is found."""
        measured = [mask for mask in self._asked if mask.tobytes() in self._values]
        if measured:
            children = Population.new("X", np.array(measured))
            children.set("F", np.array([[-self._values[mask.tobytes()]] for mask in measured]))
            children.set("G", np.zeros((len(measured), 0)))
            children.set("H", np.zeros((len(measured), 0)))
            self._algorithm.tell(infills=children)
        found = self._algorithm.ask()
        self._stock = [] if found is None else list(found.get("X").astype(bool))
        self._asked = list(self._stock)

    def tell(self, measured: Measured) -> None:
        for mask, value in zip(measured.masks, measured.values, strict=True):
            self._values[mask.tobytes()] = float(value)


class _Exact(Repair):  # type: ignore[misc]
    """Masks with the start's count, or with its counts per group, and no floor broken."""

    def __init__(self, start: Selection, inside: bool, rng: np.random.Generator) -> None:
        super().__init__()
        self._space, self._rng = start.space, rng
        self._counts = start.space.counts(start.x) if inside else None
        self._count = len(start)

    def _do(self, problem: Problem, X: Mask, **options: object) -> Mask:
        del problem, options
        return np.array([self._exact(mask.astype(bool)) for mask in X])

    def _exact(self, mask: Mask) -> Mask:
        room = np.subtract(self._space.sizes, self._space.floors)
        for group, span in enumerate(self._space.spans):
            if self._counts is not None:
                _settle(mask, np.arange(span.start, span.stop), int(self._counts[group]), self._rng)
            elif mask[span].sum() > room[group]:
                _settle(mask, np.arange(span.start, span.stop), int(room[group]), self._rng)
        if mask.sum() > self._count:
            _settle(mask, np.arange(len(mask)), self._count, self._rng)
        while mask.sum() < self._count:  # one at a time: groups fill up
            open_ = self._space.counts(mask) < room
            mask[self._rng.choice(np.flatnonzero(~mask & open_[self._space.group_of]))] = True
        return mask


def _settle(mask: Mask, units: NDArray[np.intp], count: int, rng: np.random.Generator) -> None:
    """Flips random ones of `units` until `count` of them are pruned."""
    excess = int(mask[units].sum()) - count
    side = units[mask[units] == (excess > 0)]
    mask[rng.choice(side, size=abs(excess), replace=False)] = excess < 0
