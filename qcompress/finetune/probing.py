"""A whole training: first short trials of what is not given, the learning rate and the teacher's share; then the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from qcompress.finetune.contract import Length, Recipe
from qcompress.finetune.state import State, Trial
from qcompress.finetune.training import Course, Keep, Leg, at_start, train
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
"""Share of the training that one trial takes.

Where no rate gets ahead of the start in it, the best and the next higher one are tried again, twice as long: short trainings
favour low rates, and one that gains nothing says little of a long one.
"""

MOST = 0.5
"""Share of the training after which no further trial begins: measurements at their ends may take longer than the trials."""

Progress = Callable[[State, float], None]
"""Told where a training stands, and the share of it that is over."""


def taught(course: Course, state: State, recipe: Recipe, length: Length, keep: Keep, progress: Progress) -> State:
    """`state`, which may be one that was kept, trained for `length` in all, the trials included."""
    if state.rate is None:
        state = _Trials(course, state, length, keep, progress).run(recipe)
        keep(state)
    assert state.rate is not None
    assert state.teaching is not None
    if length.seconds is not None and state.begun[1] >= length.seconds:  # the trials took all there was
        ended = replace(state, ended="minutes")
        keep(ended)
        return ended
    spent = state.spent
    rest = length.part(1 - spent) if length.seconds is None else Length(seconds=length.seconds - state.begun[1])
    leg = Leg(state.rate, state.teaching, rest, recipe.points, recipe.patience, recipe.decay)
    return train(course, state, leg, keep, lambda now: progress(now, spent + (1 - spent) * leg.share(now)))


class _Trials:
    """Short trainings from one start on the same images.

    Each is a whole schedule, down to nothing: a rate that is too high looks as good as it will be in the end. What is next
    depends on the values of those before. So a state that is told after every one, with what was tried and the network of the
    best trial, is all that is needed to go on: trials that it has are looked up, in their order.
    """

    def __init__(self, course: Course, state: State, length: Length, keep: Keep, progress: Progress) -> None:
        self._course, self._keep, self._progress = course, keep, progress
        self._start = at_start(course, state.history[0][1])
        self._best = state if state.best_step else self._start  # of those ahead of the start, which are of the latest length
        self._known = {(trial.rate, trial.teaching, trial.part): trial for trial in state.tried}
        self._whole, self._part = length, TRIAL
        self._spent = self._seconds = 0.0
        self._tried: list[Trial] = []
        self._found: dict[tuple[float, float], float] = {}  # values of the latest length

    def run(self, recipe: Recipe) -> State:
        """Ready for the main schedule: with what is given, what did best of the rest, and from where the best trial came to."""
        given = 1.0 if self._course.lesson.needs_teacher else recipe.teaching
        share = SHARES[0] if given is None else given
        rate = self._best_rate(share) if recipe.rate is None else recipe.rate
        if given is None:
            share = self._best_share(rate)
        return self._standing(rate, share)

    def _best_rate(self, share: float) -> float:
        place = self._climbed(FIRST[self._course.optimiser], share)
        while not self._gained(RATES[place], share) and self._room_for(4 * self._part):
            self._part *= 2
            self._found = {}
            place = self._climbed(min(place, len(RATES) - 2), share)
        return RATES[place]

    def _climbed(self, place: int, share: float) -> int:
        """Where in `RATES` it gets no better, from `place` and the next on."""
        step = 1 if self._better(RATES[place + 1], RATES[place], share) else -1
        place += step == 1
        while self._on_time() and 0 <= place + step < len(RATES) and self._better(RATES[place + step], RATES[place], share):
            place += step
        return place

    def _better(self, rate: float, than: float, share: float) -> bool:
        before = self._value(than, share)  # tried first: of equal ones the first is the best, here and in `_try`
        return self._value(rate, share) > before

    def _gained(self, rate: float, share: float) -> bool:
        return self._value(rate, share) > self._start.value

    def _on_time(self) -> bool:
        """Whether another trial may begin."""
        return self._gone() < MOST

    def _room_for(self, part: float) -> bool:
        """Whether so much more of the training may go into trials."""
        return self._gone() + part <= MOST

    def _gone(self) -> float:
        """Share of the training that the trials took so far; of the clock, where that ends it."""
        return self._spent if self._whole.seconds is None else self._seconds / self._whole.seconds

    def _best_share(self, rate: float) -> float:
        best = SHARES[0]
        for share in SHARES[1:]:
            if not self._on_time() or not self._value(rate, share) > self._value(rate, best):
                break
            best = share
        return best

    def _value(self, rate: float, share: float) -> float:
        """What the network is worth after a trial, of the latest length."""
        if (rate, share) not in self._found:
            known = self._known.get((rate, share, self._part))
            trial = known or self._try(rate, share)
            self._found[rate, share] = trial.value
            self._tried.append(trial)
            self._spent += trial.part
            self._seconds += trial.seconds
            if known is None:
                self._keep(self._standing(None, None))
        return self._found[rate, share]

    def _try(self, rate: float, share: float) -> Trial:
        leg, before, part = Leg(rate, share, self._whole.part(self._part)), self._spent, self._part
        found = train(
            self._course,
            self._start,
            leg,
            lambda _: None,
            lambda now: self._progress(now, before + part * leg.share(now)),
        )
        if found.best_step and found.value > self._best.value:
            self._best = found
        return Trial(rate, share, found.history[-1][1], part, found.seconds)

    def _standing(self, rate: float | None, share: float | None) -> State:
        """After the trials so far, at the network of the best one; where none was better than the start, there."""
        best = self._best
        return replace(
            best,
            weights=best.average,
            first={},
            second={},
            rate=rate,
            teaching=share,
            seconds=self._seconds,
            begun=(best.step, self._seconds),
            tried=tuple(self._tried),
            stale=0,
            ended=None,
        )
