"""Any dimod sampler as a backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qcompress.errors import BackendError

if TYPE_CHECKING:
    from dimod import BinaryQuadraticModel, SampleSet
    from dimod.core.sampler import Sampler

__all__ = ["Foreign", "from_dimod"]


@dataclass(frozen=True, eq=False)
class Foreign:
    """A dimod sampler, told `num_reads` and `seed` where it has such parameters."""

    sampler: Sampler

    def __call__(self, bqm: BinaryQuadraticModel, *, reads: int, seed: int) -> SampleSet:
        """What the sampler returns. Reproducible only if the sampler takes a seed.

        Raises BackendError if the sampler raises anything, or leaves variables out.
        """
        known = self.sampler.parameters
        wanted = {"num_reads": reads, "seed": seed}
        name = type(self.sampler).__name__
        try:
            found: SampleSet = self.sampler.sample(bqm, **{key: value for key, value in wanted.items() if key in known})
            found.resolve()  # type: ignore[no-untyped-call]
        except Exception as error:
            raise BackendError(f"backend {name} failed: {type(error).__name__}: {error}") from error
        missing = len(set(bqm.variables) - set(found.variables))
        if missing or not len(found):
            raise BackendError(f"backend {name} returned {len(found)} samples without {missing} of the variables, expected all")
        return found


def from_dimod(sampler: Sampler) -> Foreign:
    """`sampler` as a backend, composites included."""
    return Foreign(sampler)
