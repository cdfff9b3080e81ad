"""Ways of choosing units and widths for a file of the same size: ours, and its rivals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from compression_bench import ALIGN, Evaluator, Known
from compression_searches import Search, at_random, bred, bred_blind, learned

from qcompress import joint, reconstruction
from qcompress.joint import Demand, JointResult
from qcompress.joint.allocation import allocate_bytes
from qcompress.joint.greedy import greedy
from qcompress.recover.design import weight_matrix
from qcompress.recover.moments import affine
from qcompress.selection import Selection
from qcompress.settings import SearchOptions

__all__ = ["SETS", "WAYS", "Chosen", "Way"]

SETS: Mapping[str, tuple[str, ...]] = MappingProxyType({"mixed": ("float32", "float16", "int8", "int4"), "int8": ("int8",)})
"""Widths that layers may have, by name."""


@dataclass(frozen=True, eq=False)
class Chosen:
    """Units and widths; the sum of the measured losses, where the choice is one of the table that they are in."""

    selection: Selection
    widths: Mapping[str, str]
    energy: float | None = None
    evaluations: int = 0


Choose = Callable[[Known, int, int], Chosen]
"""(known, evaluations, seed) -> what is chosen."""


@dataclass(frozen=True)
class Way:
    """How it chooses, among which sets of widths, and what has to be measured for it before (of `MEASURED`).

    `sized` is False for what takes the bytes that it takes.
    """

    choose: Choose
    needs: tuple[str, ...] = ()
    sets: tuple[str, ...] = field(default=tuple(SETS))
    sized: bool = True


def jointly(known: Known, evaluations: int, seed: int) -> Chosen:
    """As `compress` does: units and widths in one problem."""
    return _joint(known, known.allowed, seed)


def units_at_int8(known: Known, evaluations: int, seed: int) -> Chosen:
    """All layers int8 first; units are pruned to the size by what they lose alone."""
    return _joint(known, ("int8",), seed)


def _joint(known: Known, allowed: tuple[str, ...], seed: int) -> Chosen:
    units = known.units.value
    found = joint.choose(
        units.profiles,
        known.widths.value,
        known.sizes,
        Demand(known.most, None, allowed),
        expand=lambda start, solve: reconstruction.expanded(units, start, solve).problem,
        options=SearchOptions(align=ALIGN),
        seed=seed,
    )
    return _chosen(found, found.energy)


def widths_alone(known: Known, evaluations: int, seed: int) -> Chosen:
    """Nothing is pruned; widths of the least loss that fit."""
    table = known.table_of([(0,)] * len(known.bench.groups.groups))
    state = allocate_bytes(table, known.most).state
    return Chosen(*known.chosen(state, table), table.energy(state))


def by_aqc(known: Known, evaluations: int, seed: int) -> Chosen:
    """The quadratic model of Wang et al. (arXiv 2505.16332), annealed by neal, as `compress --objective aqc` does."""
    model = known.bench.job.model
    magnitudes = {
        name: weight_matrix(affine(model, name))[:, :-1].abs().mean(1).flatten().cpu().numpy()
        for name in known.sizes.quantisable
    }
    found = joint.choose_aqc(
        joint.aqc_model(known.bench.groups, magnitudes),
        known.sizes,
        Demand(known.most, None, known.allowed),
        options=SearchOptions(align=ALIGN, backend="neal"),
        seed=seed,
    )
    return _chosen(found, None)


def greedily(known: Known, evaluations: int, seed: int) -> Chosen:
    """Step by step, the least measured loss per byte."""
    state = greedy(known.table, known.most)
    if state is None:
        raise ValueError(f"no step leads to {known.most} bytes")
    return Chosen(*known.chosen(state), known.table.energy(state))


def whole_int8(known: Known, evaluations: int, seed: int) -> Chosen:
    """For reference: nothing is pruned, all layers int8, whatever that takes."""
    widths = dict.fromkeys(known.sizes.quantisable, "int8")
    return Chosen(Selection(known.bench.groups.space, ()), widths)


def _searching(search: Search) -> Choose:
    def choose(known: Known, evaluations: int, seed: int) -> Chosen:
        evaluate = Evaluator(known)
        state = search(evaluate, known.table, known.most, evaluations, seed)
        return Chosen(*known.chosen(state), known.table.energy(state), evaluate.asked)

    return choose


def _chosen(found: JointResult, energy: float | None) -> Chosen:
    return Chosen(found.selection, found.widths, energy)


_LOSSES, _ORDERED = ("moments", "units", "widths"), ("moments", "units", "ranges")
WAYS: Mapping[str, Way] = MappingProxyType(
    {
        "joint": Way(jointly, _LOSSES),
        "greedy by sensitivity": Way(greedily, _LOSSES),
        "aqc, annealed": Way(by_aqc),
        "random": Way(_searching(at_random), _ORDERED),
        "genetic": Way(_searching(bred_blind), _ORDERED),
        "genetic, repaired by measured losses": Way(_searching(bred), (*_ORDERED, "widths")),
        "reinforcement learning": Way(_searching(learned), _ORDERED),
        "prune, then quantise": Way(units_at_int8, _LOSSES[:2], ("mixed",)),
        "quantise only": Way(widths_alone, _LOSSES, ("mixed",)),
        "int8, nothing pruned": Way(whole_int8, (), ("mixed",), sized=False),
    }
)
"""The ways that are compared."""
