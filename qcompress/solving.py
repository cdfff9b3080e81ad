"""`solve`: a formulated problem, wherever the account is; the selection that comes out goes back as a file. No torch."""

from __future__ import annotations

from pathlib import Path

from qcompress._version import __version__
from qcompress.alignment import Alignment
from qcompress.errors import UsageError
from qcompress.offline import SelectionFile, read_problem, write_selection
from qcompress.plans import PlanGroup
from qcompress.progress import SILENT, Observer
from qcompress.search import SearchResult
from qcompress.searching import Found, check_backend, search
from qcompress.selection import UnitSpace
from qcompress.settings import SearchOptions

__all__ = ["found_of", "solve"]


def solve(
    problem: str | Path,
    options: SearchOptions | None = None,
    *,
    seed: int = 0,
    out: str | Path = "selection.json",
    observer: Observer = SILENT,
) -> SelectionFile:
    """Solves the problem at the budget it was formulated for, and writes the selection to `out`.

    Of `options` only the backend, its options and the reads count.

    Raises:
        PlanError: the problem's files are damaged. UsageError, BackendError: as for `prune`.

    """
    options, path = options or SearchOptions(), Path(out)
    check_backend(options)
    known = read_problem(Path(problem))
    if path.resolve() in (Path(problem).resolve(), Path(problem).with_suffix(".json").resolve()):
        raise UsageError(f"--out {path}: is the problem itself", "choose another name, such as selection.json")
    record, target = known.record, known.record.target
    align = record.ask.align
    alignment = Alignment.fitting(target) if align is None else Alignment(target.space, align)
    with observer.stage("capacity search") as advance:
        found = search(known.problem, target, alignment, options, seed, observer.say)
        result = found.search
        advance(1, f"{len(result.selection)} units, energy {result.energy:.4f}, greedy {result.greedy_energy:.4f}")
    space = known.problem.space
    selection = SelectionFile(
        tool=f"qcompress {__version__}",
        checkpoint=record.checkpoint,
        groups={
            name: PlanGroup(size=size, pruned=result.selection.removed(name))
            for name, size in zip(space.groups, space.sizes, strict=True)
        },
        ask=record.ask.model_copy(update={"align": alignment.align}),
        asked=result.asked,
        capacity=result.capacity,
        energy=result.energy,
        greedy_energy=result.greedy_energy,
        backend=options.backend,
        seed=seed,
        problem=record.bqm,
        qpu=found.qpu,
    )
    write_selection(selection, path)
    return selection


def found_of(known: SelectionFile, space: UnitSpace, sha256: str) -> Found:
    """The selection of a file as what a search found, for the checkpoint of that hash. Raises PlanError."""
    selection = known.selection(space, sha256)
    result = SearchResult(
        selection=selection,
        energy=known.energy,
        asked=known.asked,
        capacity=known.capacity,
        trace=(),
        greedy_energy=known.greedy_energy,
        reads=0,
        hit=known.asked == known.capacity,
    )
    return Found(result, qpu=known.qpu)
