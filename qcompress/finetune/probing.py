"""A whole training: first short trials of learning rates, where none is given, then the rest from the best of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from qcompress.finetune.contract import Length, Recipe
from qcompress.finetune.state import State
from qcompress.finetune.training import Course, Keep, Leg, train

__all__ = ["RATES", "TRIAL", "taught"]

RATES = (1e-4, 3e-4, 1e-3, 3e-3)
"""Learning rates that may be tried: the two in the middle, and the one beyond the better of them."""

TRIAL = 0.03
"""Share of the training that one trial takes."""

Progress = Callable[[State, float], None]
"""Told where a training stands, and the share of it that is over."""


def taught(course: Course, state: State, recipe: Recipe, length: Length, keep: Keep, progress: Progress) -> State:
    """`state`, which may be one that was kept, trained for `length` in all, the trials included."""
    if state.rate is None:
        state = _begun(course, state, recipe.rate, length, progress)
        keep(state)
    assert state.rate is not None
    spent = TRIAL * len(state.tried)
    rest = length.part(1 - spent) if length.seconds is None else Length(seconds=length.seconds - state.begun[1])
    leg = Leg(state.rate, rest, recipe.points, recipe.patience, recipe.decay)
    return train(course, state, leg, keep, lambda now: progress(now, spent + (1 - spent) * leg.share(now)))


def _begun(course: Course, start: State, rate: float | None, length: Length, progress: Progress) -> State:
    """Ready for the main schedule: at the rate that is given, or after the trials, from where the best of them came to.

    Every trial is a whole schedule, down to nothing: a rate that is too high looks as good as it will be in the end.
    """
    if rate is not None:
        return replace(start, rate=rate)
    trials: dict[float, State] = {}

    def tried(place: int) -> float:
        leg, before = Leg(RATES[place], length.part(TRIAL)), TRIAL * len(trials)
        found = train(course, start, leg, lambda _: None, lambda now: progress(now, before + TRIAL * leg.share(now)))
        trials[RATES[place]] = found
        return found.history[-1][1]

    tried(3 if tried(2) > tried(1) else 0)
    best = max(trials, key=lambda rate: trials[rate].history[-1][1])
    seconds = sum(trial.seconds for trial in trials.values())
    facts = tuple((rate, trial.history[-1][1]) for rate, trial in trials.items())
    found = trials[best] if trials[best].best_step else start  # where none was better than the start, from there
    return replace(
        found,
        weights=found.average,
        first={},
        second={},
        rate=best,
        seconds=seconds,
        begun=(found.step, seconds),
        tried=facts,
        stale=0,
        ended=None,
    )
