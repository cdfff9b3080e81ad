"""The search with the backend of the settings, wherever that runs. No torch: the machine with the account needs none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

from qcompress.alignment import Alignment
from qcompress.budgets import Budget
from qcompress.problem import Problem
from qcompress.reports import QpuFacts
from qcompress.search import SearchResult, to_capacity
from qcompress.settings import SearchOptions
from qcompress.solvers import account_of, opened, ready, rounds_of, solver
from qcompress.solvers.protocol import Remote

__all__ = ["Found", "check_backend", "is_remote", "search"]


@dataclass(frozen=True, eq=False)
class Found:
    """What was found, in which problem; `qpu` is what a backend elsewhere did.

    `problem` is None for a selection that was found on another machine.
    """

    search: SearchResult
    problem: Problem | None = None
    qpu: QpuFacts | None = None


def check_backend(options: SearchOptions) -> None:
    """Before any work: the backend and its options exist, and where it needs an account there is a token.

    Raises UsageError, BackendError.
    """
    ready(options.backend, solver(options.backend, **options.backend_options))


def is_remote(options: SearchOptions) -> bool:
    """Whether the backend of `options` is a machine elsewhere, which would not give the same answer again."""
    return isinstance(solver(options.backend, **options.backend_options), Remote)


def search(
    problem: Problem, target: Budget, alignment: Alignment, options: SearchOptions, seed: int, say: Callable[[str], None]
) -> Found:
    """The search with the backend of `options`; with one elsewhere, the default backend's search besides, to compare with.

    Raises BackendError: no other backend ever takes its place.
    """
    backend = solver(options.backend, **options.backend_options)
    reads = options.reads
    if not isinstance(backend, Remote):
        return Found(to_capacity(problem, target, backend, seed, reads=reads, align=alignment), problem)
    with opened(backend, say) as session:
        result = to_capacity(problem, target, session, seed, reads=reads, rounds=rounds_of(session), align=alignment)
        account = account_of(session)
    if account is None:  # a plugin's session need not keep one
        return Found(result, problem)
    default = solver(SearchOptions().backend)
    assert not isinstance(default, Remote)
    here = to_capacity(problem, target, default, seed, reads=reads, align=alignment)
    return Found(result, problem, QpuFacts.model_validate({**asdict(account), "classical_energy": here.energy}))
