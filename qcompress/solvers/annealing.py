"""Simulated annealing by single flips, from dwave-samplers (which dwave-neal re-exports)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from dimod import BinaryQuadraticModel, SampleSet

__all__ = ["Annealing"]


@dataclass(frozen=True)
class Annealing:
    """`sweeps` passes over all variables per read, while the temperature falls geometrically."""

    sweeps: int = 300

    def __call__(self, bqm: BinaryQuadraticModel, *, reads: int, seed: int) -> SampleSet:
        """`reads` annealed samples. Raises nothing of its own."""
        from dwave.samplers import SimulatedAnnealingSampler

        return SimulatedAnnealingSampler().sample(  # type: ignore[no-untyped-call]
            bqm, num_reads=reads, num_sweeps=self.sweeps, seed=seed, beta_range=_beta_range(bqm)
        )


def _beta_range(bqm: BinaryQuadraticModel) -> tuple[float, float]:
    """Inverse temperatures, hot and cold.

    Hot: the largest flip is taken every other time. Cold: a typical coupling is overcome once in a hundred. The sampler's own
    choice takes the smallest coupling there; similarities come arbitrarily small, and the schedule would be cold throughout.
    """
    linear, (rows, columns, values) = bqm.binary.to_numpy_vectors()[:2]
    sizes = np.abs(np.concatenate((linear, values)))
    if not sizes.any():
        return 0.1, 1.0
    reach = np.abs(linear)
    np.add.at(reach, rows, np.abs(values))
    np.add.at(reach, columns, np.abs(values))
    typical = float(np.median(np.abs(values[values != 0]))) if values.any() else float(np.median(sizes[sizes > 0]))
    hot = np.log(2) / float(reach.max())
    return hot, max(np.log(100) / typical, hot)
