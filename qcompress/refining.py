"""The refinement as one step of a run: what it measures, what it depends on, and where its measurements are kept.

And what is kept of a run altogether, so that it can go on: its measurements, its scores, its training.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from qcompress import choosing, kept_rounds, kept_scores, reports
from qcompress._version import __version__
from qcompress.alignment import Alignment
from qcompress.budgets import Budget
from qcompress.errors import InterruptedRunError, QCompressError, ResumeError, UsageError
from qcompress.finetune import state
from qcompress.finetune.contract import TrainResult
from qcompress.refine import journal
from qcompress.refine.contract import Evaluate, Proposing, RefineProgress, RefineResult
from qcompress.refine.loop import refine
from qcompress.searching import Found
from qcompress.selection import Selection
from qcompress.settings import Settings
from qcompress.targets import Smallest
from qcompress.workers.bench import images_per_task
from qcompress.workers.contract import Crew
from qcompress.workers.measuring import SpreadMetric

if TYPE_CHECKING:
    from qcompress.jobs import Job

__all__ = ["check_folder", "check_resume", "complete", "forget", "refined", "resumable", "unfinished"]


def check_resume(settings: Settings, *, resume: bool, remote: bool) -> None:
    """Raises UsageError where a run could not go on from what one of the same settings measured."""
    if resume and remote:
        hint = "formulate and solve, then prune with --selection and --resume"
        raise UsageError(f"--resume: a search by {settings.search.backend} finds something else each time", hint)
    if resume and settings.refine.most == 0 and settings.recover != "finetune":
        raise UsageError("--resume: with 0 evaluations there is no refinement to go on with", "leave --resume out")


def check_folder(folder: Path, *, resume: bool, say: Callable[[str], None]) -> None:
    """Raises ResumeError where `folder` has what a run left that did not end, unless it is to be used.

    Where it is to be, and there is only the report of a complete run, too: a later one may have been killed before it kept
    anything. And InputError for a report there that cannot be read.
    """
    kept, report = _left(folder), folder / "report.json"
    if resume and not kept:
        if report.exists() and reports.read(report).status != "interrupted":
            raise ResumeError(
                f"there is nothing to go on with in {folder}: an earlier run there is complete",
                "without --resume one is made anew in its place; what is complete is not made longer",
            )
        say(f"nothing to go on with in {folder}: the run begins anew")
    if kept and not resume:
        paths = " and ".join(map(str, kept))
        raise ResumeError(
            f"{folder} has {_what(kept)} that can go on",
            f"--resume goes on with it; to begin anew, remove {paths} or choose another --out",
        )


def complete(refinement: RefineResult | None, training: TrainResult | None) -> bool:
    """Whether a run has nothing left to do."""
    return (refinement is None or refinement.complete) and (training is None or training.complete)


def forget(folder: Path) -> None:
    """Removes what was kept to go on from."""
    journal.forget(folder)
    kept_scores.forget(folder)
    kept_rounds.forget(folder)
    state.forget(folder)


def unfinished(folder: Path) -> bool:
    """Whether `folder` has what a run left that can go on."""
    return bool(_left(folder))


def _left(folder: Path) -> list[Path]:
    """What there is to go on from."""
    return [path for path in (folder / journal.FILE, *state.files(folder)) if path.exists()]


def _what(kept: list[Path]) -> str:
    refinement, training = kept[0].name == journal.FILE, kept[-1].name != journal.FILE
    return " and ".join(["the measurements of a refinement"] * refinement + ["the weights of a fine-tuning"] * training)


@contextmanager
def resumable(folder: Path) -> Iterator[None]:
    """Says in the hint of an error, Ctrl-C included, what there is to go on from, where there is something.

    Where there is nothing, the rounds of a latency target go, too: they are kept for a run that goes on.
    """
    try:
        yield
    except BaseException as error:
        kept = _left(folder)
        if not kept:
            with suppress(OSError):  # the error that is on its way says more
                kept_rounds.forget(folder)
        if not isinstance(error, (QCompressError, KeyboardInterrupt)):
            raise
        if isinstance(error, ResumeError) or not kept:
            raise
        hint = f"{_what(kept)} are kept in {' and '.join(map(str, kept))}: --resume goes on from there"
        if isinstance(error, KeyboardInterrupt):
            raise InterruptedRunError("interrupted, no result was written", hint) from None
        error.hint = f"{error.hint}; {hint}" if error.hint else hint
        raise


def refined(
    job: Job, crew: Crew, found: Found, target: Budget, alignment: Alignment, proposer: Proposing, folder: Path | None
) -> RefineResult:
    """The refinement of what the search found, as the settings of `job` want it, its candidates measured by `crew`.

    What is measured is kept in `folder`, and what is kept there from before is not measured again.

    Raises ResumeError where that is of another refinement.
    """
    crops = job.selection()
    evaluate = SpreadMetric(crew, len(crops), images_per_task(crops))
    if folder is None:
        return _run(job, found, target, alignment, proposer, evaluate, None)
    with journal.kept(evaluate, folder, _facts(job, found, alignment, proposer)) as kept:
        if kept.recalled:
            job.watch.say(f"refinement: goes on from {kept.recalled:,} measurements in {folder / journal.FILE}")
        result = _run(job, found, target, alignment, proposer, kept, kept)
    if result.ended == "minutes":
        job.watch.say("the minutes are over: --resume goes on from here")
    return result


def _run(
    job: Job,
    found: Found,
    target: Budget,
    alignment: Alignment,
    proposer: Proposing,
    evaluate: Evaluate,
    kept: journal.Journal | None,
) -> RefineResult:
    options, chooser = job.settings.refine, job.metric.chooser

    def value(of: float) -> str:
        return f"{of if chooser.higher_is_better else -of:.3f} {chooser.unit}".rstrip()

    def show(state: RefineProgress) -> None:
        of = "" if state.of is None else f"/{state.of}"
        gain = f"{state.best - state.start_value:+.3f}"
        advance(state.spent, f"{value(state.best)} ({gain}), {math.floor(state.evaluations)}{of} evals")

    with job.watch.stage("refinement", 1.0) as advance:
        result = refine(
            evaluate,
            found.search.selection,
            evaluations=options.most,
            minutes=options.minutes,
            seed=job.settings.seed,
            feasible=lambda selection: _feasible(selection, target, alignment),
            surrogate=None if found.problem is None else found.problem.energy,
            proposer=proposer,
            batch=options.batch,
            progress=show,
            clock=time.monotonic if kept is None else kept.clock,
        )
        gained = f"{value(result.value)} ({result.gain:+.3f} on the selection images)"
        advance(1.0, f"{gained}, {result.evaluations:.0f} evaluations, {result.accepted} improvements")
    return result


def _feasible(selection: Selection, target: Budget, alignment: Alignment) -> bool:
    """Whether a candidate of the refinement still meets the budget, with allowed counts."""
    counts = selection.space.counts(selection.x)
    return alignment.allows(counts) and bool(target.capacity(counts) >= target.target)


def _facts(job: Job, found: Found, alignment: Alignment, proposer: Proposing) -> dict[str, str]:
    """All that the course of a refinement depends on, but for how long it may run: what makes its measurements its own."""
    settings, crops, space = job.settings, job.selection(), job.groups.space
    return {
        "version": " ".join((__version__, *(f"{name} {version(name)}" for name in ("torch", "numpy", "teneva")))),
        "device": settings.device,
        "checkpoint": job.checkpoint.sha256,
        "arguments": kept_scores.key_of(arguments=dict(job.checkpoint.arguments)),
        "groups": kept_scores.key_of(groups=[space.groups, space.sizes, space.floors]),
        "selection images": " ".join(kept_scores.digest_of(part.cpu().numpy()) for part in (crops.inputs, crops.targets)),
        "metric": job.metric.chooser.name,
        "sparsity": f"{settings.sparsity if settings.target in (None, Smallest()) else settings.target!r} {settings.budget}",
        "align": " ".join(map(str, (alignment.align, *(part for part in (alignment.multiples, alignment.ceilings) if part)))),
        "seed": str(settings.seed),
        "proposer": repr(proposer),
        "batch": str(settings.refine.batch),
        "start": journal.name_of(found.search.selection),
        "surrogate": "none" if found.problem is None else choosing.digest(found.problem),
    }
