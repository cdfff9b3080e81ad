"""A latency target as a closed loop: choose by the table, cut, time; where that missed or overshot, correct the table, again.

It comes before what is expensive. Time does not depend on weights, so a choice is timed as it is cut, neither refined nor
repaired nor trained; those are done once, for the choice that is kept. What no budget changes is computed once (`memo`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from qcompress import choosing, keeping, kept_rounds, kept_scores, processor, run_key
from qcompress.asking import asked
from qcompress.errors import UsageError
from qcompress.exporters import timing
from qcompress.gradual import Aim
from qcompress.latency import Latency
from qcompress.latency_model import LatencyModel
from qcompress.latency_table import DeviceFacts
from qcompress.rounds import Goal, Measured, Paced, Round, doubtful, kept, next_allowed, steady
from qcompress.searching import is_remote
from qcompress.settings import RefineOptions
from qcompress.targets import AtMost, Speedup

if TYPE_CHECKING:
    from qcompress.jobs import Job
    from qcompress.selection import Selection

__all__ = ["paced", "wanted"]

Choosing = Callable[["Job"], "Selection"]
"""The choice at the budget of the job, unrefined."""

Timing = Callable[["Job", "Selection"], Latency]
"""The network without the units of a selection, against the dense one."""


def wanted(job: Job) -> bool:
    """Whether the run has a target of latency; a share of it is one of the table."""
    return job.settings.budget == "latency" and isinstance(job.settings.target, (AtMost, Speedup))


def paced(job: Job, choose: Choosing, time: Timing, folder: Path, *, resume: bool) -> Job:
    """The job with what is to go so that the target is not measured to be missed, as far as `MOST` choices can tell.

    The rounds are kept in `folder`, for a run that goes on, and in the cache of the settings: there they are not timed again.
    """
    target, model = job.settings.target, job.prices["latency"].cost
    assert isinstance(target, (AtMost, Speedup))
    assert isinstance(model, LatencyModel)
    goal = Goal(target, model({}))
    skipped = _skipped(job, model)
    if skipped is not None:
        job.watch.say(f"note: the target is one of the table alone: {skipped}")
        return replace(job, paced=Paced(goal, skipped=skipped))
    key = _key(job, goal, model)
    places = _places(job, folder)
    readable = places if resume else places[1:]
    rounds = next((known for place in readable if (known := kept_rounds.recall(place, key, goal))), None)
    if rounds is None:
        rounds = _played(job, goal, model, choose, time)
    else:
        job.watch.say(f"target: chosen as before, in {len(rounds)} rounds that were timed then")
    kept_rounds.keep(places[0], key, rounds)
    for place in places[1:]:
        with keeping.attempted(job.watch.say):
            kept_rounds.keep(place, key, rounds)
    further = next_allowed(goal, rounds)
    ended = None if further is None else _out_of_reach(job, further)
    aim = _aim(job, kept(goal, rounds).allowed_ps) if len(rounds) > 1 else None
    return replace(job, aim=aim, paced=Paced(goal, rounds, ended=ended))


def _skipped(job: Job, model: LatencyModel) -> str | None:
    """Why what this machine takes says nothing about the target, or why no second choice can be made."""
    table, here, threads = model.table, DeviceFacts(**timing.device()), job.settings.verify.threads
    if (table.device.processor, table.device.system) != (here.processor, here.system):
        return f"the latency table is of another machine ({table.device.processor}), where nothing is timed"
    if table.threads != threads:
        return f"the latency table is for {table.threads} threads, this run times with {threads}"
    if is_remote(job.settings.search):
        return f"{job.settings.search.backend} would be asked for every choice"
    return None


def _played(job: Job, goal: Goal, model: LatencyModel, choose: Choosing, time: Timing) -> tuple[Round, ...]:
    """The rounds, until one will do, none is left, or the floors of the groups allow no tighter choice."""
    rounds: list[Round] = []
    allowed = goal.most_ps
    while True:
        plain = replace(job.settings, refine=RefineOptions(evaluations=0))
        at = replace(job, settings=plain, aim=_aim(job, allowed) if rounds else None)
        selection = choose(at)
        rounds.append(Round(allowed, model(selection.counts), (_look(time(at, selection)),)))
        while doubtful(goal, rounds):
            job.watch.say(f"{_said(goal, rounds)}; much else than the table says: timed again")
            rounds[-1] = replace(rounds[-1], looks=(*rounds[-1].looks, _look(time(at, selection))))
        further = next_allowed(goal, rounds)
        if further is None or _out_of_reach(job, further) is not None:
            job.watch.say(_said(goal, rounds))
            return tuple(rounds)
        correction = goal.correction(steady(rounds)[-1])
        job.watch.say(f"{_said(goal, rounds)}; the table is corrected by {correction:.3f}, and another choice made")
        allowed = further


def _look(found: Latency) -> Measured:
    return Measured(found.speedup, found.ci95, found.dense_ms, found.runs)


def _aim(job: Job, allowed_ps: int) -> Aim:
    """What is to go so that the table predicts so much at most. Raises UsageError where the groups' floors do not allow it."""
    return asked(job.groups, replace(job.settings, target=AtMost(allowed_ps / 1e9)), job.prices)


def _out_of_reach(job: Job, allowed_ps: int) -> str | None:
    """Why so little cannot be predicted, where it cannot."""
    try:
        _aim(job, allowed_ps)
    except UsageError as error:
        return error.message
    return None


def _said(goal: Goal, rounds: list[Round]) -> str:
    made = steady(rounds)[-1]
    low, high = goal.interval(made.measured)
    unit = " ms" if goal.unit == "ms" else ""
    return (
        f"choice {len(rounds)}: predicted {goal.predicted(made.predicted_ps):.3g}{unit}, measured "
        f"{goal.value(made.measured):.3g}{unit} ({low:.3g} to {high:.3g}), asked {goal.asked:g}{unit}: "
        f"{'overshot' if goal.overshot(made.measured) else goal.reached(made.measured)}"
    )


def _places(job: Job, folder: Path) -> list[Path]:
    """Where the rounds are kept: in the output folder first, then in the cache, where there is one that this run can use."""
    places, cache = [folder / kept_rounds.FILE], job.settings.cache
    key = None if cache is None else run_key.key_of(job)
    return places if cache is None or key is None else [*places, cache / f"{key}.rounds.json"]


def _key(job: Job, goal: Goal, model: LatencyModel) -> str:
    """Of all that choices and times depend on, but for code, and for how long may be refined or trained afterwards."""
    settings = job.settings
    options = replace(settings.search, latency_table=None)
    table = model.table.model_dump_json()
    return kept_scores.key_of(
        scored=choosing.key_of_job(job),
        goal=repr(goal),
        table=kept_scores.key_of(table=table),
        search=repr(options),
        seed=settings.seed,
        repair=settings.repair,
        example=job.groups.example_shape,
        threads=settings.verify.threads,
        export=repr(settings.export),
        processor=processor.features(),
    )
