"""What goes, and the repaired network that is left: chosen and repaired, or found in the cache."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from qcompress import choosing, gradual, kept_runs, offline, refining, run_key, surgery
from qcompress.gradual import PruningStep
from qcompress.jobs import Job
from qcompress.recover.choice import Recovered, recover_best
from qcompress.refine.contract import RefineResult
from qcompress.refine.proposers import proposer
from qcompress.reports import QpuFacts
from qcompress.search import SearchResult
from qcompress.searching import Found, is_remote
from qcompress.selection import Selection

__all__ = ["Choice", "choose", "decided", "key_of", "repair"]


@dataclass(frozen=True, eq=False)
class Choice:
    """Which units go: as the search chose, after the refinement, and what was kept of the two once both were repaired.

    `search` is None where a plan was applied again. `qpu` says what a backend elsewhere did, `trail` what the steps before the
    last one left. `recalled`: from the cache.
    """

    selected: Selection
    refined: Selection
    kept: Selection
    align: int = 1
    search: SearchResult | None = None
    refinement: RefineResult | None = None
    qpu: QpuFacts | None = None
    trail: tuple[PruningStep, ...] = ()
    recalled: bool = False


def decided(job: Job, folder: Path, given: Found | None, key: str | None, *, resume: bool) -> tuple[Choice, Recovered]:
    """What goes, and the repaired network: from the cache where an equal run left it, which a resumed one does not ask."""
    cache = job.settings.cache
    if cache is not None and key is not None and not resume:
        kept = kept_runs.recall(cache, key, job)
        if kept is not None:
            found, tuned = kept.search, kept.refinement
            refined = tuned.selection if tuned else found.selection
            choice = Choice(found.selection, refined, kept.kept, kept.align, found, tuned, kept.qpu, kept.trail, recalled=True)
            return choice, kept.recovered
    choice, recovered = gradual.decided(job, job.asked, choose, repair, folder, given)
    if cache is not None and key is not None:
        kept_runs.keep(cache, key, job, choice, recovered)
    return choice, recovered


def key_of(job: Job, known: offline.SelectionFile | None) -> str | None:
    """The name of all runs that are equal to this one, for the cache; None where there is none, or nothing to name it by."""
    if job.settings.cache is None:
        return None
    key = run_key.key_of(job, known)
    if key is None:
        job.watch.say("cache: not used, for code that no file holds is part of this run")
    return key


def choose(job: Job, *, folder: Path | None = None, given: Found | None = None) -> Choice:
    """Scores the units, solves the QUBO at the budget, refines the answer on the true metric.

    `given` takes the place of scores and search. In `folder` the scores are kept where the backend fails, and what the
    refinement measures, so that it can be taken up again; not where a machine elsewhere searched: it would find something else.
    """
    settings = job.settings
    target, alignment = job.asked
    candidates = proposer(settings.refine.proposer, inside=not alignment.free)
    keeps = folder if given is not None or not is_remote(settings.search) else None
    refines = settings.refine.most != 0
    with job.crew() as crew:
        found = (
            choosing.find(job, crew, target, alignment, folder, keep=refines and keeps is not None) if given is None else given
        )
        selected = found.search.selection
        chosen = Choice(selected, selected, selected, alignment.align, found.search, None, found.qpu)
        if not refines or not len(selected):
            return chosen
        result = refining.refined(job, crew, found, target, alignment, candidates, keeps)
    if result.interrupted:
        going_on = "" if keeps is None else "; --resume goes on from here"
        job.watch.say(f"interrupted: finishing with the best selection so far (Ctrl-C again to give up){going_on}")
    return replace(chosen, refined=result.selection, kept=result.selection, refinement=result)


def repair(job: Job, choice: Choice) -> tuple[Choice, Recovered]:
    """Removes and repairs; where the refinement changed the choice, both, and the better on the judging crops is kept.

    The refinement climbs on some crops, and with a repair that is not the last one. Its gain there need not be one elsewhere.
    """
    candidates = list(dict.fromkeys((choice.refined, choice.selected)))
    found = []
    with job.watch.stage("repair", float(len(candidates))) as advance:
        for number, selection in enumerate(candidates):
            cuts = job.groups.cuts(selection)
            cut = surgery.slim(job.model, cuts)
            surgery.check(job.model, job.groups, selection, cut, job.calibration().inputs[:2])
            recovered = recover_best(
                job.settings.repair,
                job.model,
                cut,
                job.groups,
                cuts,
                job.calibration(),
                job.judging(),
                job.metric.chooser,
                job.static_repair if job.settings.repair == "lstsq" else None,
                progress=lambda done, note="", before=number: advance(before + done, note),
            )
            found.append((selection, recovered))
        better = max if job.metric.chooser.higher_is_better else min
        kept, best = better(found, key=lambda pair: pair[1].value)
        advance(float(len(candidates)), best.note)
    return replace(choice, kept=kept), best
