"""The problem and its search as one step of a run: with a backend elsewhere, scores outlive its failure, its work is booked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from qcompress import kept_scores, qubo, reconstruction, scoring
from qcompress._version import __version__
from qcompress.alignment import Alignment
from qcompress.budgets import Budget
from qcompress.errors import BackendError, InterruptedRunError
from qcompress.problem import Problem, holding
from qcompress.progress import Advance
from qcompress.scores import Scores
from qcompress.search import to_capacity
from qcompress.searching import Found, is_remote, search
from qcompress.solvers.profile import Profiles
from qcompress.workers.contract import Crew
from qcompress.workers.measuring import SpreadPasses

if TYPE_CHECKING:
    from qcompress.jobs import Job

__all__ = ["digest", "find", "key_of_job", "prepare", "problem", "score"]


def find(
    job: Job, crew: Crew, target: Budget, alignment: Alignment, folder: Path | None = None, *, keep: bool = False
) -> Found:
    """Makes the problem of the job's objective, its passes computed by `crew`, and solves it at the budget.

    Where the backend fails, or Ctrl-C comes while it runs, scores are kept in `folder`, and taken up from there next time.
    With `keep` they are kept in any case, for a refinement that may have to be taken up again.

    Raises BackendError, UsageError.
    """
    if isinstance(job.settings.search.objective, qubo.Reconstruction):
        return _searched(job, lambda: _reconstruction(job, target, alignment), target, alignment)
    key = key_of_job(job)
    if job.memo.scores is None and folder is not None:
        job.memo.scores = kept_scores.recall(job.groups.space, key, folder)
        if job.memo.scores is not None:
            job.watch.say("scores: those of the last run, which did not finish")
    scores = job.memo.scores = score(job, crew) if job.memo.scores is None else job.memo.scores
    with _keeping(scores, key, folder, always=keep):
        return _searched(job, lambda: _from_scores(job, crew, scores, target, alignment), target, alignment)


def prepare(job: Job) -> None:
    """Computes what the objective needs whatever the budget, for all runs that share the memo of the job."""
    if isinstance(job.settings.search.objective, qubo.Reconstruction):
        _ = job.static_repair  # a stage of its own
        with job.watch.stage("reconstruction", 1.0) as advance:
            _eliminated(job, advance)
    elif job.memo.scores is None:
        with job.crew() as crew:
            job.memo.scores = score(job, crew)


def problem(job: Job, crew: Crew, target: Budget, alignment: Alignment) -> Problem:
    """The problem of the job's objective, which for some depends on the budget."""
    if isinstance(job.settings.search.objective, qubo.Reconstruction):
        return _reconstruction(job, target, alignment)
    return _from_scores(job, crew, score(job, crew), target, alignment)


def digest(problem: Problem) -> str:
    """SHA-256 of the problem's numbers, for its provenance and for what depends on it."""
    cross = () if problem.cross is None else (problem.cross,)
    return kept_scores.key_of(arrays=[kept_scores.digest_of(part) for part in (problem.linear, *problem.couplings, *cross)])


def score(job: Job, crew: Crew, pruned: tuple[int, ...] = ()) -> Scores:
    """The scores of the units on the calibration crops of the run, with those `pruned` gone, computed by `crew`."""
    with job.watch.stage("scores", 1.0) as advance:
        passes = SpreadPasses(crew, pruned)
        return scoring.score(job.model, job.groups, job.calibration(), job.metric.loss, passes=passes, progress=advance)


def _searched(job: Job, make: Callable[[], Problem], target: Budget, alignment: Alignment) -> Found:
    """What is found in the problem; the same again where the last search was for the same budget and counts."""
    settings = job.settings
    if job.memo.found is not None and job.memo.found[:2] == (target, alignment):
        return job.memo.found[2]
    problem = make()
    with job.watch.stage("capacity search") as advance:
        found = search(problem, target, alignment, settings.search, settings.seed, job.watch.say)
        result = found.search
        blocks = f", kept in multiples of {alignment.align}" if alignment.align > 1 else ""
        proven = f", bound {result.certificate.bound:.4f}" if result.certificate else ""
        energies = f"energy {result.energy:.4f}, greedy {result.greedy_energy:.4f}{proven}"
        advance(1, f"{len(result.selection)} units, {energies}{blocks}")
    if not is_remote(settings.search):
        job.memo.found = target, alignment, found
    return found


def _reconstruction(job: Job, target: Budget, alignment: Alignment) -> Problem:
    _ = job.static_repair  # a stage of its own
    with job.watch.stage("reconstruction", 1.0) as advance:
        known = _eliminated(job, advance)
        found = reconstruction.formulate(known, target, alignment, job.settings.seed)
        advance(1.0, f"{known.measurements} measurements")
    return found.problem


def _eliminated(job: Job, advance: Advance) -> reconstruction.Eliminated:
    """What the units cost that are eliminated one by one, computed once."""
    objective = job.settings.search.objective
    assert isinstance(objective, qubo.Reconstruction)
    if job.memo.eliminated is None:
        job.memo.eliminated = reconstruction.eliminated(
            job.model,
            job.groups,
            job.calibration(),
            job.metric,
            job.static_repair.moments,
            calibrated=bool(objective.calibrated),
            progress=lambda done, note="": advance(0.9 * done, note),
        )
    return job.memo.eliminated


def _from_scores(job: Job, crew: Crew, scores: Scores, target: Budget, alignment: Alignment) -> Problem:
    """The problem that the objective makes of the scores; in the last of several steps, of scores taken anew.

    Every step prunes its share of the target, any counts allowed, by the default backend; what went stays gone in the next.
    """
    objective, steps = job.settings.search.objective, job.settings.search.relinearise or 1
    made = qubo.formulate(objective, scores)
    for step in range(1, steps):
        gone = to_capacity(made, target.part(step / steps), Profiles(), job.settings.seed, certified=False).selection
        made = holding(qubo.formulate(objective, score(job, crew, gone.pruned)), gone.x)
    return made


@contextmanager
def _keeping(scores: Scores, key: str, folder: Path | None, *, always: bool) -> Iterator[None]:
    """Keeps the scores if the block does not end well, and says so in the hint; else forgets those of an earlier run."""
    try:
        yield
    except (BackendError, KeyboardInterrupt) as error:
        path = None if folder is None else kept_scores.keep(scores, key, folder)
        if path is None:
            raise
        kept = f"the scores are kept in {path}: the same command goes on from there, with another --backend too"
        if isinstance(error, KeyboardInterrupt):
            raise InterruptedRunError("interrupted during the capacity search", kept) from None
        error.hint = f"{error.hint}; {kept}" if error.hint else kept
        raise
    if folder is not None and always:
        kept_scores.keep(scores, key, folder)
    elif folder is not None:
        kept_scores.forget(folder)


def key_of_job(job: Job) -> str:
    """Of everything that the scores depend on: the crops themselves stand for the images and how they were read."""
    import torch

    settings, space, crops = job.settings, job.groups.space, job.calibration()
    return kept_scores.key_of(
        tool=__version__,
        torch=torch.__version__,
        device=settings.device,
        checkpoint=job.checkpoint.sha256,
        arguments=dict(job.checkpoint.arguments),
        crops=[kept_scores.digest_of(tensor.cpu().numpy()) for tensor in (crops.inputs, crops.targets)],
        metric=settings.metric,
        groups=[space.groups, space.sizes, space.floors],
    )
