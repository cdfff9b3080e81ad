"""Solve the connected parts of a model one after the other: what samplers of dense models want, and enumeration needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qcompress import seeds

if TYPE_CHECKING:
    from dimod import BinaryQuadraticModel, SampleSet

__all__ = ["SolveBlock", "solve_blocks"]

SolveBlock = Callable[[NDArray[np.float64], NDArray[np.float64], int], NDArray[np.int8]]
"""linear (m,), couplings (m, m) symmetric with a zero diagonal, seed -> (reads, m) samples of 0/1."""


def solve_blocks(bqm: BinaryQuadraticModel, solve: SolveBlock, *, reads: int, seed: int, together: int = 1) -> SampleSet:
    """Samples of `bqm` from `solve` on its connected parts: sample r is put together from the r-th sample of every part.

    Parts come in the order of their first variable; small ones share a call until it holds `together` variables. Every part's
    call has a seed of its own.
    """
    import dimod
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    binary = bqm.change_vartype(dimod.BINARY, inplace=False)
    labels = list(binary.variables)
    n = len(labels)
    samples = np.zeros((reads, n), np.int8)
    if n:
        linear, (rows, columns, values) = binary.to_numpy_vectors(variable_order=labels)[:2]
        half = coo_array((values, (rows, columns)), shape=(n, n)).tocsr()
        couplings = (half + half.T).tocsr()
        _, part = connected_components(half, directed=False)
        for number, places in enumerate(_packs(part, together)):
            block = couplings[places][:, places].toarray()
            samples[:, places] = solve(np.asarray(linear[places], np.float64), block, seeds.integer(seed, f"block {number}"))
    own = samples if bqm.vartype is dimod.BINARY else 2 * samples - 1
    found: SampleSet = dimod.SampleSet.from_samples_bqm((own, labels), bqm)  # type: ignore[no-untyped-call]
    return found


def _packs(part: NDArray[np.int32], together: int) -> list[NDArray[np.intp]]:
    """Places of the variables of each pack of parts, given the part that each variable belongs to."""
    order = np.argsort(part, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(part[order])) + 1)
    packs: list[list[NDArray[np.intp]]] = []
    for places in sorted(parts, key=lambda places: int(places[0])):
        if packs and sum(map(len, packs[-1])) < together:
            packs[-1].append(places)
        else:
            packs.append([places])
    return [np.concatenate(pack) for pack in packs]
