"""A whole training: first short trials of what is not given, the learning rate and the teacher's share; then the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from qcompress.finetune.contract import Length, Recipe
from qcompress.finetune.state import State
from qcompress.finetune.training import Course, Keep, Leg, train
from qcompress.settings import Optimiser

__all__ = ["RATES", "SHARES", "TRIAL", "taught"]

RATES = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
"""Learning rates that may be tried: one, the next, then on in the direction in which it gets better, as long as it does."""

FIRST: Mapping[Optimiser, int] = MappingProxyType({"muon": 3, "adam": 2})
"""Where in `RATES` the trials begin."""

SHARES = (1.0, 0.5, 0.0)
"""Shares of the teacher that are tried, down as long as it gets better.

The dense network's outputs win where images are few, and lose where it is not well trained itself.
"""

TRIAL = 0.03
"""Share of the training that one trial takes."""

MOST = 0.5
"""Share of the clock after which no further trial begins: measurements at their ends may take longer than the trials."""

Progress = Callable[[State, float], None]
"""Told where a training stands, and the share of it that is over."""


def taught(course: Course, state: State, recipe: Recipe, length: Length, keep: Keep, progress: Progress) -> State:
    """`state`, which may be one that was kept, trained for `length` in all, the trials included."""
    if state.rate is None:
        state = _Trials(course, state, length, progress).run(recipe)
        keep(state)
    assert state.rate is not None
    assert state.teaching is not None
    if length.seconds is not None and state.begun[1] >= length.seconds:  # the trials took all there was
        ended = replace(state, ended="minutes")
        keep(ended)
        return ended
    spent = TRIAL * len(state.tried)
    rest = length.part(1 - spent) if length.seconds is None else Length(seconds=length.seconds - state.begun[1])
    leg = Leg(state.rate, state.teaching, rest, recipe.points, recipe.patience, recipe.decay)
    return train(course, state, leg, keep, lambda now: progress(now, spent + (1 - spent) * leg.share(now)))


class _Trials:
    """Short trainings from one start on the same images.

    Each is a whole schedule, down to nothing: a rate that is too high looks as good as it will be in the end.
    """

    def __init__(self, course: Course, start: State, length: Length, progress: Progress) -> None:
        self._course, self._start, self._progress = course, start, progress
        self._whole, self._length = length, length.part(TRIAL)
        self._found: dict[tuple[float, float], State] = {}

    def run(self, recipe: Recipe) -> State:
        """Ready for the main schedule: with what is given, what did best of the rest, and from where the best trial came to."""
        given = 1.0 if self._course.lesson.needs_teacher else recipe.teaching
        share = SHARES[0] if given is None else given
        rate = self._best_rate(share) if recipe.rate is None else recipe.rate
        if given is None:
            share = self._best_share(rate)
        return self._after(rate, share)

    def _best_rate(self, share: float) -> float:
        place = FIRST[self._course.optimiser]
        step = 1 if self._better(RATES[place + 1], RATES[place], share) else -1
        place += step == 1
        while self._on_time() and 0 <= place + step < len(RATES) and self._better(RATES[place + step], RATES[place], share):
            place += step
        return RATES[place]

    def _better(self, rate: float, than: float, share: float) -> bool:
        return self._tried(rate, share) > self._tried(than, share)

    def _on_time(self) -> bool:
        """Whether another trial may begin."""
        spent = sum(trial.seconds for trial in self._found.values())
        return self._whole.seconds is None or spent < MOST * self._whole.seconds

    def _best_share(self, rate: float) -> float:
        best = SHARES[0]
        for share in SHARES[1:]:
            if not self._on_time() or not self._tried(rate, share) > self._tried(rate, best):
                break
            best = share
        return best

    def _tried(self, rate: float, share: float) -> float:
        """What the network is worth after a trial."""
        if (rate, share) not in self._found:
            leg, before = Leg(rate, share, self._length), TRIAL * len(self._found)
            self._found[rate, share] = train(
                self._course,
                self._start,
                leg,
                lambda _: None,
                lambda now: self._progress(now, before + TRIAL * leg.share(now)),
            )
        return self._found[rate, share].history[-1][1]

    def _after(self, rate: float, share: float) -> State:
        """Where no trial was better than the start, from there."""
        best, seconds = self._found.get((rate, share)), sum(trial.seconds for trial in self._found.values())
        origin = best if best is not None and best.best_step else self._start
        return replace(
            origin,
            weights=origin.average,
            first={},
            second={},
            rate=rate,
            teaching=share,
            seconds=seconds,
            begun=(origin.step, seconds),
            tried=tuple((*tried, trial.history[-1][1]) for tried, trial in self._found.items()),
            stale=0,
            ended=None,
        )
