"""Fully coupled blocks side by side on one chip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qcompress.errors import BackendError
from qcompress.solvers.chip import Embedding, Pack

if TYPE_CHECKING:
    from networkx import Graph  # type: ignore[import-untyped]

__all__ = ["LEAST_CLIQUE", "clique", "largest_clique", "pack_cliques"]

LEAST_CLIQUE = 9
"""Smaller cliques are cut out of one of 9: minorminer 0.2.22 ends the process (bad_alloc) for 5 to 8 variables on Zephyr."""


def clique(graph: Graph, size: int) -> Embedding | None:
    """Chains for `size` fully coupled variables 0 .. size-1, short ones first; None where they do not fit."""
    from minorminer.busclique import find_clique_embedding  # type: ignore[import-untyped]

    for asked in dict.fromkeys((max(size, LEAST_CLIQUE), size)):
        if size < asked or asked >= LEAST_CLIQUE or asked <= 4:  # 5 to 8 are never asked for
            found = find_clique_embedding(asked, graph, use_cache=False)
            if found:
                chains = sorted((tuple(sorted(chain)) for chain in found.values()), key=lambda chain: (len(chain), chain))
                return dict(enumerate(chains[:size]))
    return None


def largest_clique(graph: Graph, limit: int) -> int:
    """Variables of the largest clique of at most `limit` for which chains are found, by bisection; 0 where there is none."""
    if clique(graph, limit):
        return limit
    low, high = 0, limit
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if clique(graph, middle) else (low, middle)
    return low


def pack_cliques(graph: Graph, sizes: Sequence[int]) -> tuple[Pack, ...]:
    """Blocks of these sizes in as few packs as first-fit finds: large ones first, each on the qubits that are left.

    Raises BackendError for a block that does not fit on the empty chip.
    """
    waiting = sorted(range(len(sizes)), key=lambda place: (-sizes[place], place))
    packs = []
    while waiting:
        left, taken, chains = graph.copy(), [], []
        refused: int | None = None
        for place in waiting:
            if refused is not None and sizes[place] >= refused:
                continue
            found = clique(left, sizes[place])
            if found is None:
                refused = sizes[place]
                continue
            left.remove_nodes_from({qubit for chain in found.values() for qubit in chain})
            taken.append(place)
            chains.append(found)
        if not taken:
            raise BackendError(
                f"a block of {sizes[waiting[0]]} units does not fit on the chip of {len(graph)} qubits",
                "fewer units per block: --backend-option largest=N",
            )
        packs.append(Pack(tuple(taken), tuple(chains)))
        waiting = [place for place in waiting if place not in set(taken)]
    return tuple(packs)
