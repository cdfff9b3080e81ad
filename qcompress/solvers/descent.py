"""Steepest descent by single flips from many random starts, from dwave-samplers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dimod import BinaryQuadraticModel, SampleSet

__all__ = ["SteepestDescent"]


@dataclass(frozen=True)
class SteepestDescent:
    """`starts` random starts per read: reads are cheap here and every local minimum counts."""

    starts: int = 8

    def __call__(self, bqm: BinaryQuadraticModel, *, reads: int, seed: int) -> SampleSet:
        """Local minima, `reads` times `starts` of them. Raises nothing of its own."""
        from dwave.samplers import SteepestDescentSampler

        return SteepestDescentSampler().sample(  # type: ignore[no-untyped-call]
            bqm, num_reads=reads * self.starts, seed=seed
        )
