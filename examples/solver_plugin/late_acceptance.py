"""Late acceptance hill climbing: a flip is taken where the energy is no worse than it was some steps ago."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from dimod import BinaryQuadraticModel, SampleSet

__all__ = ["LateAcceptance"]

Neighbours = list[list[tuple[int, float]]]


@dataclass(frozen=True)
class LateAcceptance:
    """Burke and Bykov, EJOR 258:70, 2017. `sweeps` flips are tried per variable, `memory` energies are remembered."""

    sweeps: int = 100
    memory: int = 50

    def __call__(self, bqm: BinaryQuadraticModel, *, reads: int, seed: int) -> SampleSet:
        """The best state of each of `reads` climbs from random states. Raises nothing of its own."""
        import dimod

        binary = bqm.change_vartype(dimod.BINARY, inplace=False)
        order = list(binary.variables)
        place = {variable: number for number, variable in enumerate(order)}
        linear = [float(binary.linear[variable]) for variable in order]
        neighbours: Neighbours = [[] for _ in order]
        for (one, other), value in binary.quadratic.items():
            neighbours[place[one]].append((place[other], float(value)))
            neighbours[place[other]].append((place[one], float(value)))
        climbs = [self._climb(linear, neighbours, np.random.default_rng([seed, read])) for read in range(reads)]
        samples = np.array(climbs, np.int8).reshape(reads, len(order))
        found = dimod.SampleSet.from_samples_bqm((samples, order), binary)  # type: ignore[no-untyped-call]
        found.change_vartype(bqm.vartype, inplace=True)
        same: SampleSet = found
        return same

    def _climb(self, linear: list[float], neighbours: Neighbours, rng: np.random.Generator) -> list[int]:
        x = rng.integers(0, 2, len(linear)).tolist()
        fields = [bias + sum(value * x[other] for other, value in near) for bias, near in zip(linear, neighbours, strict=True)]
        energy, past = 0.0, [0.0] * self.memory  # relative to the start: only differences count
        best, least = list(x), energy
        for step, place in enumerate(rng.integers(0, max(1, len(x)), self.sweeps * len(x)).tolist()):
            change = -fields[place] if x[place] else fields[place]
            if change <= 0 or energy + change <= past[step % self.memory]:
                x[place], energy = 1 - x[place], energy + change
                for other, value in neighbours[place]:
                    fields[other] += value if x[place] else -value
                if energy < least:
                    best, least = list(x), energy
            past[step % self.memory] = energy
        return best
