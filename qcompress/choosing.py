"""Scores and search as one step of a run: with a backend elsewhere, scores outlive its failure, and its work is booked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from qcompress import kept_scores, qubo, scoring
from qcompress._version import __version__
from qcompress.alignment import Alignment
from qcompress.budgets import Budget
from qcompress.errors import BackendError, InterruptedRunError
from qcompress.scores import Scores
from qcompress.searching import Found, search
from qcompress.workers.contract import Crew
from qcompress.workers.measuring import SpreadPasses

if TYPE_CHECKING:
    from qcompress.pipeline import Job

__all__ = ["find", "key_of_job", "score"]


def find(
    job: Job, crew: Crew, target: Budget, alignment: Alignment, folder: Path | None = None, *, keep: bool = False
) -> Found:
    """Scores the units by `crew` and solves the problem at the budget.

    Where the backend fails, or Ctrl-C comes while it runs, the scores are kept in `folder`, and taken up from there next time.
    With `keep` they are kept in any case, for a refinement that may have to be taken up again.

    Raises BackendError, UsageError.
    """
    settings = job.settings
    key = key_of_job(job)
    scores = None if folder is None else kept_scores.recall(job.groups.space, key, folder)
    if scores is None:
        scores = score(job, crew)
    else:
        job.watch.say("scores: those of the last run, which did not finish")
    problem = qubo.formulate(settings.search.objective, scores)
    with job.watch.stage("capacity search") as advance, _keeping(scores, key, folder, always=keep):
        found = search(problem, target, alignment, settings.search, settings.seed, job.watch.say)
        result = found.search
        blocks = f", kept in multiples of {alignment.align}" if alignment.align > 1 else ""
        proven = f", bound {result.certificate.bound:.4f}" if result.certificate else ""
        energies = f"energy {result.energy:.4f}, greedy {result.greedy_energy:.4f}{proven}"
        advance(1, f"{len(result.selection)} units, {energies}{blocks}")
    return found


def score(job: Job, crew: Crew) -> Scores:
    """The scores of the units on the calibration crops of the run, computed by `crew`."""
    with job.watch.stage("scores", 1.0) as advance:
        passes = SpreadPasses(crew)
        return scoring.score(job.model, job.groups, job.calibration(), job.metric.loss, passes=passes, progress=advance)


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
