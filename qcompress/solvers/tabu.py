"""Tabu search, from dwave-samplers, on one connected part of the model after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qcompress.solvers.components import solve_blocks

if TYPE_CHECKING:
    from dimod import BinaryQuadraticModel, SampleSet

__all__ = ["Tabu"]


@dataclass(frozen=True)
class Tabu:
    """About `updates` flips per variable and start, with `restarts` starts more per read.

    The work is bounded by flips, never by the clock, so that the answer depends on the seed alone.
    """

    updates: int = 200
    restarts: int = 1

    def __call__(self, bqm: BinaryQuadraticModel, *, reads: int, seed: int) -> SampleSet:
        """`reads` samples, each the best state of one search per part. Raises nothing of its own."""
        from dimod import BINARY, BinaryQuadraticModel
        from dwave.samplers import TabuSampler

        def solve(linear: NDArray[np.float64], couplings: NDArray[np.float64], seed: int) -> NDArray[np.int8]:
            order = range(len(linear))
            pairs = np.nonzero(np.triu(couplings, 1))
            block = BinaryQuadraticModel.from_numpy_vectors(
                linear, (*pairs, couplings[pairs]), 0.0, BINARY, variable_order=order
            )
            found = TabuSampler().sample(  # type: ignore[no-untyped-call]
                block,
                num_reads=reads,
                seed=seed,
                timeout=None,  # type: ignore[arg-type]
                num_restarts=self.restarts,
                coefficient_z_first=self.updates,
                coefficient_z_restart=self.updates,
                lower_bound_z=1,
            )
            return np.asarray(found.record.sample[:, [found.variables.index(v) for v in order]], np.int8)

        return solve_blocks(bqm, solve, reads=reads, seed=seed, together=32)
