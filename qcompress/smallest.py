"""`--smallest`: the smallest network within a drop, judged on selection images before any report image is looked at."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import nn

from qcompress.bisection import Trial, best, bisect
from qcompress.errors import UsageError
from qcompress.judging import Judge, Judged
from qcompress.settings import RefineOptions, Settings
from qcompress.targets import Smallest

if TYPE_CHECKING:
    from qcompress.jobs import Job
    from qcompress.selection import Selection

__all__ = ["Attempt", "Sized", "check", "sized"]

TRIALS = 7

Attempt = Callable[["Job"], tuple["Selection", nn.Module]]
"""Chooses at the budget of the job, removes and repairs, without refinement: the selection, and the network that is left."""


@dataclass(frozen=True)
class Sized:
    """The trials that led to the share of the budget, `crops` judging crops each, and the limit of the drop."""

    trials: tuple[Trial, ...]
    limit: float
    crops: int


def check(settings: Settings, *, known: bool, remote: bool) -> None:
    """Raises UsageError where the smallest network cannot be looked for."""
    if not isinstance(settings.target, Smallest):
        return
    if settings.limits.max_drop is None:
        raise UsageError("--smallest: within which drop?", "for example --smallest --max-drop 0.1")
    if known:
        raise UsageError("--smallest: with --selection nothing is searched", "leave one of them out")
    if remote:
        hint = "look for the share with the default backend, then prune with --sparsity"
        raise UsageError(f"--smallest: {settings.search.backend} would be asked for every trial", hint)


def sized(job: Job, attempt: Attempt) -> Job:
    """The job at the largest share of its budget whose drop on the judging crops is within the limit, margin included.

    What does not depend on the budget is computed once. The refinement, which comes later, is no part of the trials. Where no
    trial is within the limit, the share is 0: the network stays as it is.
    """
    limit, judge = job.settings.limits.max_drop, Judge(job.model, job.judging(), job.metric)
    assert limit is not None
    drops: dict[Selection, Judged] = {}

    def tried(share: float) -> Trial:
        settings = replace(job.settings, sparsity=share, refine=RefineOptions(evaluations=0))
        at = replace(job, settings=settings)
        selection, model = attempt(at)
        if selection not in drops:
            drops[selection] = judge.judge(model)
        counts = selection.counts
        capacity = int(at.asked[0].capacity(list(counts.values())))
        made = Trial(share, capacity, job.groups.params(counts), job.groups.macs(counts), *drops[selection])
        verdict = "within" if made.within(limit) else "above"
        unit = f" {job.metric.difference_unit}".rstrip()
        job.watch.say(
            f"{100 * share:.2f} % of {settings.budget}: drop {made.drop:.3f}{unit}, margin {made.margin:.3f}, "
            f"{verdict} {limit:g}{unit}"
        )
        return made

    target, alignment = replace(job, settings=replace(job.settings, sparsity=0.0)).asked
    largest = math.floor(10_000 * int(target.capacity(alignment.most)) / max(target.dense, 1)) / 10_000
    trials = bisect(tried, limit, largest, TRIALS)
    found = best(trials, limit)
    share = found.share if found else 0.0
    if found is None:
        job.watch.say(f"no trial is within a drop of {limit:g}: the network stays as it is")
    return replace(job, settings=replace(job.settings, sparsity=share), sized=Sized(trials, limit, len(judge)))
