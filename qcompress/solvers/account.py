"""What a backend that is a machine elsewhere did and what it cost: plain values, for the report."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Account", "ProbeAccount", "SplitBlock"]


@dataclass(frozen=True)
class SplitBlock:
    """A block that was too large to go to the chip whole: `on_chip` of its `units`, the others were fixed beforehand."""

    block: str
    units: int
    on_chip: int


@dataclass(frozen=True)
class ProbeAccount:
    """One model that was solved, its penalty-free term of gamma included: energies of the same model, the lower the better.

    start      the classical state that units outside of the contested core were fixed at (steepest descent)
    raw        the best answer as the machine gave it
    polished   the best after steepest descent by single flips from every answer
    classical  the best of simulated annealing here, with as many reads
    """

    start: float
    raw: float
    polished: float
    classical: float
    chain_break_fraction: float | None
    access_s: float


@dataclass(frozen=True)
class Account:
    """One session with a machine. Seconds are of the machine, not of the clock on the wall; None where there is no such thing.

    reads              of one submission
    coefficient_error  root mean square of the error of `bits` bits on the couplings as programmed, over their own
    precision_loss     energy that this error costs, over the energy between a random state and the best: by annealing the
                       model with rounded coefficients, here
    """

    backend: str
    solver: str
    topology: str | None = None
    graph_id: str | None = None
    blocks: int = 0
    split: tuple[SplitBlock, ...] = ()
    largest_on_chip: int | None = None
    submissions: int = 0
    reads: int = 0
    qubits: int | None = None
    longest_chain: int | None = None
    chain_break_fraction: float | None = None
    estimated_s: float = 0.0
    access_s: float = 0.0
    spin_reversals: int = 0
    bits: int | None = None
    coefficient_error: float | None = None
    precision_loss: float | None = None
    probes: tuple[ProbeAccount, ...] = ()
