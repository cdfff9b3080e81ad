"""The contract of a backend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from dimod import BinaryQuadraticModel, SampleSet

__all__ = ["Solver"]


class Solver(Protocol):
    """Draws low-energy samples of a binary quadratic model without constraints; its options are its fields."""

    def __call__(self, bqm: BinaryQuadraticModel, *, reads: int, seed: int) -> SampleSet:
        """At least one and, where it can, `reads` (>= 1) samples over all variables of `bqm`, with their true energies.

        The same `bqm`, `reads` and `seed` (0 .. 2**31 - 1) give the same samples in every process; a backend that is a machine
        elsewhere may not keep that and says so. Any number of variables is allowed, none included.

        Raises BackendError if the backend fails, is not installed, cannot be reached, or cannot take a model of that size.
        """
