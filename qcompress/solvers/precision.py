"""What the precision of an analog machine costs: coefficients as programmed, rounded to its effective bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qcompress import seeds
from qcompress.solvers.annealing import Annealing

__all__ = ["Ising", "PrecisionLoss", "Ranges", "ising", "measure", "scale"]

READS = 20
"""Annealed samples that decide what the rounded coefficients are worth."""


class Ising(NamedTuple):
    """A block in spins -1/+1, without its constant: h (m,), J (m, m) symmetric, zero diagonal, each pair counted once."""

    h: NDArray[np.float64]
    J: NDArray[np.float64]

    def energy(self, spins: NDArray[np.int8]) -> NDArray[np.float64]:
        """(K,) energies of states (K, m)."""
        s = spins.astype(np.float64)
        energy: NDArray[np.float64] = s @ self.h + np.einsum("ki,ki->k", s @ self.J, s) / 2
        return energy


class Ranges(NamedTuple):
    """Largest |h| and |J| that a chip takes."""

    h: float
    j: float


class PrecisionLoss(NamedTuple):
    """See `qcompress.solvers.account.Account`."""

    coefficient_error: float
    energy: float


def ising(linear: NDArray[np.float64], couplings: NDArray[np.float64]) -> Ising:
    """Of a block in 0/1: x = (1 + s) / 2."""
    return Ising(linear / 2 + couplings.sum(1) / 4, couplings / 4)


def scale(model: Ising, chain_strength: float, chain: int, ranges: Ranges) -> float:
    """The factor > 0 that makes the largest of chain coupling, J and h (shared by the `chain` qubits of a chain) just fit."""
    sizes = [chain_strength / ranges.j, _largest(model.J) / ranges.j, _largest(model.h) / (chain * ranges.h)]
    return 1.0 / (max(sizes) or 1.0)


def measure(
    models: Sequence[Ising], strengths: Sequence[float], chain: int, ranges: Ranges, bits: int, seed: int
) -> PrecisionLoss:
    """What `bits` bits over the whole range cost, in couplings and in energy, over all blocks together.

    The machine is taken to be ideal otherwise: the rounded model is annealed here, and its best state costed with the exact
    coefficients. `strengths` are the chains' couplings, in the unit of each model.
    """
    step_h, step_j = (2 * size / 2**bits for size in ranges)
    squares, errors, lost, span = 0.0, 0.0, 0.0, 0.0
    for number, (model, strength) in enumerate(zip(models, strengths, strict=True)):
        factor = scale(model, strength, chain, ranges)
        rounded = Ising(
            np.round(model.h * factor / chain / step_h) * step_h * chain / factor,
            np.round(model.J * factor / step_j) * step_j / factor,
        )
        squares += float((model.J**2).sum())
        errors += float(((rounded.J - model.J) ** 2).sum())
        exact, own = (_anneal(m, model, seeds.integer(seed, f"precision {number}")) for m in (model, rounded))
        lost += max(own - exact, 0.0)
        span += -exact  # a random state has mean energy 0 in spins
    return PrecisionLoss(float(np.sqrt(errors / squares)) if squares else 0.0, lost / span if span > 0 else 0.0)


def _anneal(solved: Ising, costed: Ising, seed: int) -> float:
    """Energy in `costed` of the best state found for `solved`."""
    from dimod import SPIN, BinaryQuadraticModel

    i, j = np.nonzero(np.triu(solved.J, 1))
    order = range(len(solved.h))
    model = BinaryQuadraticModel.from_numpy_vectors(solved.h, (i, j, solved.J[i, j]), 0.0, SPIN, variable_order=order)
    found = Annealing(sweeps=100)(model, reads=READS, seed=seed)
    best = found.record.sample[[int(found.record.energy.argmin())]][:, [found.variables.index(v) for v in order]]
    return float(costed.energy(best)[0])


def _largest(values: NDArray[np.float64]) -> float:
    return float(np.abs(values).max(initial=0.0))
