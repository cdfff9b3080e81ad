"""Late acceptance hill climbing: a flip is taken where the energy is no worse than it was some steps ago."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from dimod import BinaryQuadraticModel, SampleSet

__all__ = ["LateAcceptance"]


@dataclass(frozen=True)
class LateAcceptance:
    """Burke and Bykov, EJOR 258:70, 2017. `steps` flips are tried per read, `memory` energies are remembered."""

    steps: int = 2000
    memory: int = 50

    def __call__(self, bqm: BinaryQuadraticModel, *, reads: int, seed: int) -> SampleSet:
        """The best state of each of `reads` climbs from random states of 0 and 1. Raises nothing of its own."""
        import dimod

        order = list(bqm.variables)
        place = {unit: number for number, unit in enumerate(order)}
        linear, couplings = np.array([bqm.linear[unit] for unit in order], float), np.zeros((len(order), len(order)))
        for (one, other), value in bqm.quadratic.items():
            couplings[place[one], place[other]] = couplings[place[other], place[one]] = value
        climbs = [self._climb(linear, couplings, np.random.default_rng([seed, read])) for read in range(reads)]
        samples = np.array(climbs, np.int8).reshape(reads, len(order))
        found: SampleSet = dimod.SampleSet.from_samples_bqm((samples, order), bqm)  # type: ignore[no-untyped-call]
        return found

    def _climb(self, linear: np.ndarray, couplings: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        x = rng.integers(0, 2, len(linear)).astype(float)
        energy = 0.0  # relative to the start: only differences count
        best, least = x.copy(), energy
        past = [energy] * self.memory
        for step in range(self.steps if len(linear) else 0):
            place = int(rng.integers(len(linear)))
            change = (1 - 2 * x[place]) * float(linear[place] + couplings[place] @ x)
            if change <= 0 or energy + change <= past[step % self.memory]:
                x[place], energy = 1 - x[place], energy + change
                if energy < least:
                    best, least = x.copy(), energy
            past[step % self.memory] = energy
        return best
