"""Tasks dealt to workers one at a time, and what happens where a worker is lost. Knows neither processes nor clusters."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from qcompress.errors import WorkerError
from qcompress.workers.contract import Answer, Done, Facts, Failed, Lost, Ready, Staff, Task, Worker

__all__ = ["Pool"]

_TRIES = 3  # a task that so many workers were lost with is not given to another one
_REPLACED = 3  # so many workers are hired again, for each that was asked for
_AHEAD = 4  # tasks begun beyond the first one that is missing, for each worker: what waits for its turn takes memory
_PATIENCE_SECONDS = 300.0  # for a start, while no other worker is there: importing torch from a slow disk takes its time
_TICK_SECONDS = 1.0


@dataclass
class _Seat:
    """A worker, whether it has begun to answer, and the number of the task that it has, counted over all runs."""

    worker: Worker
    since: float
    ready: bool = False
    task: int | None = None


class Pool:
    """A crew of the workers of `staff`, who are hired at the first task and dismissed by `close`.

    A lost worker is replaced, and its task given to whoever is free. Each is held against `own`, the facts of this process.
    What the user should know is told to `say`.
    """

    def __init__(self, staff: Staff, own: Callable[[], Facts], say: Callable[[str], None]) -> None:
        self._staff, self._own, self._say = staff, own, say
        self._seats: list[_Seat] = []
        self._facts: Facts | None = None
        self._replaced = 0
        self._dealt = 0  # tasks of all runs so far
        self._warned = False

    def run(self, tasks: Sequence[Task]) -> Iterator[Any]:
        """See `Crew`. A run that is not used up may leave workers busy: their answers are dropped."""
        if not tasks:
            return
        run = _Run(tasks, self._dealt)
        self._dealt += len(tasks)
        try:
            self._open()
            for place in range(len(tasks)):
                while place not in run.found:
                    self._step(run, place + _AHEAD * self._staff.size)
                yield run.found.pop(place)
        except KeyboardInterrupt:
            self._dismiss()  # an answer may have been cut off halfway
            raise

    def answers(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Answer]]:
        """The places of tasks and their answers, as they come: done, or what one raised, or that workers were lost with it.

        Raises WorkerError where no workers can be had or kept.
        """
        run = _Tolerant(tasks, self._dealt)
        self._dealt += len(tasks)
        left = len(tasks)
        try:
            self._open()
            while left:
                self._step(run, len(tasks))
                for place in sorted(run.found):
                    left -= 1
                    yield place, run.found.pop(place)
        except KeyboardInterrupt:
            self._dismiss()
            raise

    def close(self) -> None:
        """Ends all workers."""
        try:
            self._dismiss()
        finally:
            self._staff.close()

    def _dismiss(self) -> None:
        while self._seats:
            self._seats.pop().worker.dismiss()

    def _open(self) -> None:
        if not self._seats:
            for _ in range(self._staff.size):
                self._hire()
        if self._facts is None:
            self._facts = self._own()  # while they start

    def _step(self, run: _Run, before: int) -> None:
        """Deals tasks up to the place `before`, and takes what is answered by then or soon."""
        self._deal(run, before)
        for worker, answer in self._staff.answers([seat.worker for seat in self._seats], _TICK_SECONDS):
            self._take(run, next(seat for seat in self._seats if seat.worker is worker), answer)
        self._check_patience()

    def _hire(self) -> None:
        self._seats.append(_Seat(self._staff.hire(), time.monotonic()))

    def _deal(self, run: _Run, before: int) -> None:
        for seat in self._seats:
            if seat.ready and seat.task is None and run.waiting and run.waiting[0] < before:
                place = run.waiting.popleft()
                seat.task = run.first + place
                seat.worker.give(run.tasks[place])

    def _take(self, run: _Run, seat: _Seat, answer: Answer) -> None:
        number, seat.task = seat.task, None
        place = None if number is None or number < run.first else number - run.first
        match answer:
            case Ready(facts):
                seat.ready = True
                self._compare(seat.worker, facts)
            case Done():
                if place is not None:
                    run.done(place, answer)
            case Failed(error):
                if not seat.ready:
                    raise WorkerError(f"{seat.worker.name} could not start: {type(error).__name__}: {error}") from error
                if place is not None:
                    run.failed(place, answer)
            case Lost(reason):
                self._replace(seat, reason)
                if place is not None:
                    run.lost(place, reason)

    def _replace(self, seat: _Seat, reason: str) -> None:
        """Another worker for one that is lost: for one that never started only where others have."""
        self._seats.remove(seat)
        seat.worker.dismiss()
        if not seat.ready and (self._replaced == 0 or not self._seats):
            raise WorkerError(f"{seat.worker.name} ended at its start: {reason}", self._staff.hint)
        again = self._replaced < _REPLACED * self._staff.size
        if not again and not self._seats:
            raise WorkerError(f"no worker is left, the last was lost: {reason}", "is there enough memory? try fewer workers")
        self._say(f"note: {seat.worker.name} was lost ({reason}); what it was at is computed again")
        if again:
            self._replaced += 1
            self._hire()

    def _compare(self, worker: Worker, facts: Facts) -> None:
        assert self._facts is not None
        name = f"{worker.name} on {facts.host}"
        ours = (self._facts.tool, self._facts.torch)
        if (facts.tool, facts.torch) != ours:
            theirs = f"qcompress {facts.tool} and torch {facts.torch}"
            raise WorkerError(
                f"{name} has {theirs}, expected {ours[0]} and {ours[1]} as here", "install the same versions everywhere"
            )
        if facts.probe != self._facts.probe and not self._warned:
            self._warned = True
            self._say(
                f"note: {name} computes other last bits than this machine (another processor?): "
                "the result may differ from that of another run"
            )

    def _check_patience(self) -> None:
        if not any(seat.ready for seat in self._seats):
            waited = time.monotonic() - max(seat.since for seat in self._seats)
            if waited > _PATIENCE_SECONDS:
                raise WorkerError(
                    f"no worker has started within {waited:.0f} seconds",
                    "is the machine, or the cluster, busy with other work?",
                )


class _Run:
    """The tasks of one run: which wait for a worker, and what has been found, both by place."""

    def __init__(self, tasks: Sequence[Task], first: int) -> None:
        self.tasks, self.first = tasks, first
        self.waiting = deque(range(len(tasks)))
        self.found: dict[int, Any] = {}
        self._losses = [0] * len(tasks)

    def done(self, place: int, answer: Done) -> None:
        """What was asked for."""
        self.found[place] = answer.value

    def failed(self, place: int, answer: Failed) -> None:
        """The task raised something: so does the run."""
        raise answer.error

    def lost(self, place: int, reason: str) -> None:
        """The task goes to the front again, unless too many workers were lost with it."""
        self._losses[place] += 1
        if self._losses[place] >= _TRIES:
            self.given_up(place, f"{_TRIES} workers in a row were lost with the same task, the last: {reason}")
        else:
            self.waiting.appendleft(place)

    def given_up(self, place: int, reason: str) -> None:
        """The task cannot be done, so neither can the run."""
        raise WorkerError(reason, "is there enough memory? try fewer workers, or none")


class _Tolerant(_Run):
    """Of tasks that do not need one another: what becomes of each is its answer."""

    def done(self, place: int, answer: Done) -> None:
        self.found[place] = answer

    def failed(self, place: int, answer: Failed) -> None:
        self.found[place] = answer

    def given_up(self, place: int, reason: str) -> None:
        self.found[place] = Lost(reason)
