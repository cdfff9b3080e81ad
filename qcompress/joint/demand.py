"""What is asked of a joint choice, and what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qcompress.errors import UsageError
from qcompress.searching import Found
from qcompress.selection import Selection
from qcompress.widths import WIDTHS

__all__ = ["Demand", "JointResult"]


@dataclass(frozen=True)
class Demand:
    """A file of at most `target_bytes`, or `sparsity` (the share of units to prune, 0..1), or both.

    `widths` are the names that every quantisable layer may take, as `widths.parse_bits` gives them.

    Raises UsageError where neither is given, or a value is out of range.
    """

    target_bytes: int | None = None
    sparsity: float | None = None
    widths: tuple[str, ...] = WIDTHS

    def __post_init__(self) -> None:
        if self.target_bytes is None and self.sparsity is None:
            raise UsageError("neither a size nor a sparsity is given, expected one", "--target-size 0.25, or --sparsity 0.5")
        if self.target_bytes is not None and self.target_bytes < 1:
            raise UsageError(f"the target size is {self.target_bytes} bytes, expected at least 1")
        if not self.widths or not set(self.widths) <= set(WIDTHS):
            raise UsageError(f"widths are {self.widths}, expected some of {', '.join(WIDTHS)}", "--bits 8,16 allows two widths")


@dataclass(frozen=True, eq=False)
class JointResult:
    """What was chosen.

    selection      units of the network that go
    widths         of every quantisable layer by name, float32 included
    bytes          of the file, by `Sizes`
    target_bytes   that `bytes` is not above; None where no size was asked for
    pruning        what the units lose, in the unit of the profiles; quantisation  what the widths lose
    greedy_energy  the same sum for greedy pruning and narrowing, in steps by energy per byte; with a sparsity, for the counts
                   of least energy and narrowing after that; None where that does not come to the size
    bound          no choice by the profiles and losses that were given loses less; None: not known. `energy` can be below it
                   where the problem of the units found better ones than the profiles have
    found          the search, in the problem over units and width steps; without a size, over the units
    align          kept counts are multiples of it, see `Alignment`
    """

    selection: Selection
    widths: Mapping[str, str]
    bytes: int
    target_bytes: int | None
    pruning: float
    quantisation: float
    greedy_energy: float | None
    bound: float | None
    found: Found
    align: int

    @property
    def energy(self) -> float:
        """What units and widths lose together."""
        return self.pruning + self.quantisation
