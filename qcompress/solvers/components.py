"""Solve the connected parts of a model one after the other: what samplers of dense models want, and enumeration needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qcompress import seeds

if TYPE_CHECKING:
    from dimod import BinaryQuadraticModel, SampleSet
    from scipy.sparse import csr_array

__all__ = ["SolveBlock", "connected_parts", "solve_blocks"]

SolveBlock = Callable[[NDArray[np.float64], NDArray[np.float64], int], NDArray[np.int8]]
"""linear (m,), couplings (m, m) symmetric with a zero diagonal, seed -> (reads, m) samples of 0/1."""


def solve_blocks(bqm: BinaryQuadraticModel, solve: SolveBlock, *, reads: int, seed: int, together: int = 1) -> SampleSet:
    """Samples of `bqm` from `solve` on its connected parts: sample r is put together from the r-th sample of every part.

    Parts come in the order of their first variable; small ones share a call until it holds `together` variables. Every part's
    call has a seed of its own.
    """
    import dimod

    binary = bqm.change_vartype(dimod.BINARY, inplace=False)
    labels = list(binary.variables)
    samples = np.zeros((reads, len(labels)), np.int8)
    linear, couplings, parts = connected_parts(binary)
    for number, places in enumerate(_packs(parts, together)):
        block = couplings[places][:, places].toarray()
        samples[:, places] = solve(linear[places], block, seeds.integer(seed, f"block {number}"))
    own = samples if bqm.vartype is dimod.BINARY else 2 * samples - 1
    found: SampleSet = dimod.SampleSet.from_samples_bqm((own, labels), bqm)  # type: ignore[no-untyped-call]
    return found


def connected_parts(bqm: BinaryQuadraticModel) -> tuple[NDArray[np.float64], csr_array, list[NDArray[np.intp]]]:
    """Of a BINARY model: linear (n,), couplings (n, n) symmetric, the places of each connected part's variables.

    Parts come in the order of their first variable.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = bqm.num_variables
    linear, (rows, columns, values) = bqm.to_numpy_vectors(variable_order=list(bqm.variables))[:2]
    half = coo_array((values, (rows, columns)), shape=(n, n)).tocsr()
    if not n:
        return np.zeros(0), half, []
    _, part = connected_components(half, directed=False)
    order = np.argsort(part, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(part[order])) + 1)
    return np.asarray(linear, np.float64), (half + half.T).tocsr(), sorted(parts, key=lambda places: int(places[0]))


def _packs(parts: Sequence[NDArray[np.intp]], together: int) -> list[NDArray[np.intp]]:
    """Parts with each other until there are `together` variables."""
    packs: list[list[NDArray[np.intp]]] = []
    for places in parts:
        if packs and sum(map(len, packs[-1])) < together:
            packs[-1].append(places)
        else:
            packs.append([places])
    return [np.concatenate(pack) for pack in packs]
