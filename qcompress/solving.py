"""`solve`: a formulated problem, wherever the account is; the selection that comes out goes back as a file. No torch."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from qcompress import qubo
from qcompress._version import __version__
from qcompress.alignment import Alignment
from qcompress.budgets import Budget
from qcompress.errors import PlanError, UsageError
from qcompress.files import claim_file
from qcompress.offline import CertificateRecord, ProblemFile, SelectionFile, read_problem, write_selection
from qcompress.plans import PlanGroup
from qcompress.progress import SILENT, Observer
from qcompress.search import SearchResult
from qcompress.search_certificate import Certificate
from qcompress.searching import Found, check_backend, search
from qcompress.selection import UnitSpace
from qcompress.settings import SearchOptions, Settings
from qcompress.targets import AtMost

__all__ = ["as_asked", "checked", "found_of", "solve"]


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
        PlanError: the problem's files are damaged. OutputError: `out` cannot be written; nothing was solved.
        UsageError, BackendError: as for `prune`.

    """
    options, path = options or SearchOptions(), Path(out)
    check_backend(options)
    known = read_problem(Path(problem))
    if path.resolve() in (Path(problem).resolve(), Path(problem).with_suffix(".json").resolve()):
        raise UsageError(f"--out {path}: is the problem itself", "choose another name, such as selection.json")
    claim_file(path)
    record = known.record
    target, alignment = record.asked
    with observer.stage("capacity search") as advance:
        found = search(known.problem, target, alignment, options, seed, observer.say)
        result = found.search
        advance(1, f"{len(result.selection)} units, energy {result.energy:.4f}, greedy {result.greedy_energy:.4f}")
    selection = _file_of(found, record, alignment.align, options.backend, seed)
    write_selection(selection, path)
    return selection


def _file_of(found: Found, record: ProblemFile, align: int, backend: str, seed: int) -> SelectionFile:
    """What was found, and what it was found for."""
    result, space = found.search, found.search.selection.space
    return SelectionFile(
        tool=f"qcompress {__version__}",
        checkpoint=record.checkpoint,
        groups={
            name: PlanGroup(size=size, pruned=result.selection.removed(name))
            for name, size in zip(space.groups, space.sizes, strict=True)
        },
        ask=record.ask.model_copy(update={"align": align}),
        asked=result.asked,
        capacity=result.capacity,
        energy=result.energy,
        greedy_energy=result.greedy_energy,
        certificate=CertificateRecord(**asdict(result.certificate)) if result.certificate else None,
        objective=record.provenance.objective,
        coefficients=record.provenance.coefficients,
        backend=backend,
        seed=seed,
        problem=record.bqm,
        qpu=found.qpu,
    )


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
        certificate=Certificate(**known.certificate.model_dump()) if known.certificate else None,
    )
    return Found(result, qpu=known.qpu)


def checked(found: Found, target: Budget, alignment: Alignment) -> Found:
    """`found`, if its selection meets the budget `target`, with counts that `alignment` allows, and frees what its file says.

    Raises PlanError where not.
    """
    counts, hint = [*found.search.selection.counts.values()], "make it again with qcompress solve"
    frees = int(target.capacity(counts))
    if frees != found.search.capacity:
        raise PlanError(f"the selection frees {frees:,} {target.unit}, its file says {found.search.capacity:,}", hint)
    if frees < target.target:
        raise PlanError(f"the selection frees {frees:,} {target.unit}, expected at least {target.target:,}", hint)
    if not alignment.allows(counts):
        raise PlanError("the selection keeps numbers of units that its --align, --keep-at-most or --multiple-of rule out", hint)
    return found


def as_asked(settings: Settings, known: SelectionFile) -> Settings:
    """The settings with what the selection was found for and with.

    Raises UsageError where others than the defaults are set that differ, PlanError for an objective that there is not.
    """
    usual, search, ask = Settings(), settings.search, known.ask
    objective = _objective_of(known, search.objective)
    target = None if ask.at_most is None else AtMost(ask.at_most)
    if settings.target not in (None, target):
        held = f"a sparsity of {ask.sparsity:g}" if target is None else f"{target}"
        raise UsageError(f"{settings.target}: the selection was found for {held}", "leave it out")
    options: tuple[tuple[str, object, object, object], ...] = (
        ("--sparsity", settings.sparsity, usual.sparsity, ask.sparsity),
        ("--budget", settings.budget, usual.budget, ask.budget),
        ("--align", search.align, usual.search.align, ask.align),
        ("--keep", search.keep, usual.search.keep, ask.keep),
        ("--keep-at-most", search.keep_at_most, usual.search.keep_at_most, ask.keep_at_most),
        ("--multiple-of", search.multiple_of, usual.search.multiple_of, ask.multiple_of),
        ("--backend", search.backend, usual.search.backend, known.backend),
        ("--objective", search.objective, usual.search.objective, objective),
    )
    for option, given, default, expected in options:
        if given not in (default, expected):
            raise UsageError(f"{option} {given}: the selection was found for {expected}", "leave it out, or solve again")
    if search.backend_options:
        names = ", ".join(search.backend_options)
        raise UsageError(f"{names}: with a selection no backend runs, expected no options of one", "leave them out")
    held_search = replace(
        search,
        objective=objective,
        align=ask.align,
        backend=known.backend,
        keep=ask.keep,
        keep_at_most=ask.keep_at_most,
        multiple_of=ask.multiple_of,
    )
    return replace(settings, budget=ask.budget, sparsity=ask.sparsity, target=target, search=held_search)


def _objective_of(known: SelectionFile, given: qubo.Objective) -> qubo.Objective:
    """The objective that a selection was found for; one from elsewhere has to be given."""
    if known.objective not in qubo.OBJECTIVES:
        if qubo.name_of(given) == known.objective:
            return given
        raise PlanError(
            f"the selection was found for the objective {known.objective}, which is none of ours", "set it in Python"
        )
    try:
        return qubo.objective(known.objective, **known.coefficients)
    except UsageError as error:
        raise PlanError(f"the selection cannot be used: {error.message}", "make it again with qcompress solve") from error
