"""The refinement's loop: ask for candidates, screen them, measure the promising ones, tell; keep the best ever measured."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from qcompress import seeds
from qcompress.errors import UsageError
from qcompress.refine.contract import Ended, Energy, Evaluate, Measured, Proposing, RefineProgress, RefineResult
from qcompress.refine.predictions import Predictions
from qcompress.refine.racing import Meter, Racing
from qcompress.refine.screening import Screening
from qcompress.refine.tensor_train import TensorTrain
from qcompress.selection import Selection

__all__ = ["refine"]

_PROPOSER, _SCREENING, _RACING = TensorTrain(), Screening(), Racing()
_IDLE_ROUNDS = 20  # so many batches in a row without a new candidate end the search: the neighbourhood is used up


def refine(
    evaluate: Evaluate,
    start: Selection,
    *,
    evaluations: int | None,
    seed: int,
    minutes: float | None = None,
    feasible: Callable[[Selection], bool] | None = None,
    surrogate: Energy | None = None,
    proposer: Proposing = _PROPOSER,
    screening: Screening | None = _SCREENING,
    racing: Racing | None = _RACING,
    batch: int = 4,
    progress: Callable[[RefineProgress], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> RefineResult:
    """Improves `start` on the true metric with at most `evaluations` measurements on all images, its own included.

    Every candidate has as many units pruned as the start and breaks no floor; `feasible` may forbid more. No candidate is
    measured twice. `surrogate` screens, and tells the proposer which units are contested. The result is the best that was
    measured on every image, so never worse than the start there; it is chosen on those images, so its gain on others is
    smaller. KeyboardInterrupt ends the search and returns the best so far. With 0 evaluations nothing is measured and the
    start comes back.

    `minutes` of `clock` (in seconds) end it too, once the batch in flight is measured. Neither limit has a part in what is
    proposed: the candidates of a short run are the first ones of a long run, but for a last batch that is cut to what can be
    paid. `batch` candidates are measured at a time and told together: another batch is another search.

    Raises UsageError for limits out of range or missing and an empty evaluation set, InputError for a metric that is not
    finite.
    """
    _check(evaluations, minutes, batch)
    if evaluations == 0:
        return RefineResult(start, np.nan, np.nan, 0.0, 0.0, 0, 0, (), "evaluations")
    if evaluate.images < 1:
        raise UsageError("refinement needs at least 1 image, got 0", "give more images, or 0 evaluations")
    timer = _Timer(minutes, clock)
    run = _Run(evaluate, start, evaluations, racing, feasible, timer, progress, surrogate)
    try:
        measured = run.measure(start.x[None])
        ideas = proposer.begin(start, surrogate, seeds.stream(seed, "refine"))
        wanted = batch * screening.factor if screening and surrogate else batch
        idle = 0
        while (ended := _reason(run.meter, timer, idle)) is None:
            if measured is not None:
                ideas.tell(measured)
            fresh = run.fresh(ideas.ask(wanted))
            if screening and surrogate:
                fresh = screening.best(surrogate, fresh, batch)
            measured = run.measure(fresh[:batch])
            idle = idle + 1 if measured is None else 0
    except KeyboardInterrupt:
        return run.result("interrupt")
    return run.result(ended)


def _check(evaluations: int | None, minutes: float | None, batch: int) -> None:
    if evaluations is None and minutes is None:
        raise UsageError("neither evaluations nor minutes are given, expected at least one limit")
    if evaluations is not None and evaluations < 0:
        raise UsageError(f"evaluations must be 0 or more, got {evaluations}")
    if minutes is not None and not minutes > 0:  # nan fails too
        raise UsageError(f"minutes must be above 0, got {minutes}")
    if batch < 1:
        raise UsageError(f"batch must be 1 or more, got {batch}")


def _reason(meter: Meter, timer: _Timer, idle: int) -> Ended | None:
    """Why there is no further batch, or None."""
    if not meter.affordable:
        return "evaluations"
    if idle >= _IDLE_ROUNDS:
        return "exhausted"
    return "minutes" if timer.spent >= 1 else None


class _Timer:
    """How much of the minutes is spent, since it was made."""

    def __init__(self, minutes: float | None, clock: Callable[[], float]) -> None:
        self._clock, self._began, self._seconds = clock, clock(), None if minutes is None else 60 * minutes

    @property
    def spent(self) -> float:
        """The share of the minutes, 0 where they have no limit; above 1 once they are over."""
        return 0.0 if self._seconds is None else (self._clock() - self._began) / self._seconds


class _Run:
    """What has been measured, what it cost and what was the best."""

    def __init__(
        self,
        evaluate: Evaluate,
        start: Selection,
        evaluations: int | None,
        racing: Racing | None,
        feasible: Callable[[Selection], bool] | None,
        timer: _Timer,
        progress: Callable[[RefineProgress], None] | None,
        surrogate: Energy | None,
    ) -> None:
        self.meter = Meter(evaluate, evaluations, racing)
        self._start, self._budget, self._feasible, self._timer, self._progress = start, evaluations, feasible, timer, progress
        self._known: set[bytes] = set()  # masks measured or found infeasible
        self._best = start
        self._value = np.nan
        self._candidates = 0
        self._history: list[tuple[float, float]] = []
        self._predictions = Predictions(surrogate)

    def fresh(self, masks: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The masks that are not known yet, each once; a mask that breaks the contract is a bug of the proposer."""
        keys = [np.packbits(mask).tobytes() for mask in masks]
        first = {key: place for place, key in reversed(list(enumerate(keys))) if key not in self._known}
        return masks[sorted(first.values())]

    def measure(self, masks: NDArray[np.bool_]) -> Measured | None:
        """Measures those of the masks that are feasible and affordable; None if there is none."""
        self._known.update(np.packbits(mask).tobytes() for mask in masks)
        chosen = [Selection.of(self._start.space, mask) for mask in masks[: self.meter.affordable]]
        assert all(len(selection) == len(self._start) for selection in chosen), "a proposer changed the count"
        if self._feasible is not None and self._history:
            chosen = [selection for selection in chosen if self._feasible(selection)]
        if not chosen:
            return None
        measured, seen = self.meter.measure(chosen)
        self._candidates += len(chosen)
        self._predictions.book(measured, self._best.x, self._value)
        self._crown(chosen, measured, seen)
        if self._progress:
            self._progress(self._state())
        return measured

    def _crown(self, chosen: list[Selection], measured: Measured, seen: NDArray[np.float64]) -> None:
        values = np.where(measured.whole, measured.values, -np.inf)
        winner = int(values.argmax())
        if not self._history or values[winner] > self._value:
            self._best, self._value = chosen[winner], float(values[winner])
            self.meter.leader = seen[winner]
            self._history.append((self.meter.evaluations, self._value))

    def _state(self) -> RefineProgress:
        evaluated = self.meter.evaluations / self._budget if self._budget else 0.0
        spent = min(max(evaluated, self._timer.spent), 1.0)
        return RefineProgress(self.meter.evaluations, self._budget, spent, self._history[0][1], self._value)

    def result(self, ended: Ended) -> RefineResult:
        """What there is to show, whenever it is asked."""
        start = self._history[0][1] if self._history else np.nan
        return RefineResult(
            selection=self._best,
            start_value=start,
            value=self._value,
            gain=self._value - start if self._history else 0.0,
            evaluations=self.meter.evaluations,
            candidates=self._candidates,
            accepted=max(0, len(self._history) - 1),
            history=tuple(self._history),
            ended=ended,
            measured=tuple(self._predictions.measured),
            steps=tuple(self._predictions.steps),
        )
