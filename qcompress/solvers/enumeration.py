"""All states of small connected parts: the exact answer, and the oracle for the other backends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qcompress.errors import BackendError
from qcompress.search_exact import subset_energies
from qcompress.solvers.components import solve_blocks

if TYPE_CHECKING:
    from dimod import BinaryQuadraticModel, SampleSet

__all__ = ["Enumeration"]


@dataclass(frozen=True)
class Enumeration:
    """Enumerates every connected part of at most `largest` variables."""

    largest: int = 20

    def __call__(self, bqm: BinaryQuadraticModel, *, reads: int, seed: int) -> SampleSet:
        """`reads` samples; sample r has the r-th lowest state of every part, so the first is a global optimum.

        The seed has no effect. A part of fewer states than reads repeats its lowest.

        Raises BackendError for a connected part of more than `largest` variables; the message names its size.
        """

        def solve(linear: NDArray[np.float64], couplings: NDArray[np.float64], seed: int) -> NDArray[np.int8]:
            if len(linear) > self.largest:
                raise BackendError(
                    f"backend exact: a connected part has {len(linear)} variables, at most {self.largest} can be enumerated",
                    hint="--backend profile takes any size",
                )
            energies = subset_energies(linear, couplings)
            lowest = np.argsort(energies, kind="stable")[:reads]
            states = np.concatenate((lowest, np.full(reads - len(lowest), lowest[0])))
            return (states[:, None] >> np.arange(len(linear)) & 1).astype(np.int8)

        return solve_blocks(bqm, solve, reads=reads, seed=seed)
