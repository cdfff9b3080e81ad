"""How tasks are dealt and what a loss costs, with workers that exist in this test alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from qcompress.errors import DataError, WorkerError
from qcompress.workers.contract import Answer, Done, Facts, Failed, Forward, Lost, Ready, Task, Worker
from qcompress.workers.pool import Pool

HERE = Facts("1", "2", "probe", "here")
TASKS = [Forward(range(number, number + 1)) for number in range(7)]


@dataclass
class Actor:
    """A worker whose answers are written down beforehand: what `script` says for (its number, its task)."""

    number: int
    script: Callable[[int, Task | None], Answer]
    task: Task | None = None
    busy: bool = True
    ended: bool = False

    @property
    def name(self) -> str:
        return f"worker {self.number}"

    def give(self, task: Task) -> None:
        assert not self.busy
        assert not self.ended
        self.task, self.busy = task, True

    def answer(self) -> Answer:
        self.busy = False
        return self.script(self.number, self.task)

    def dismiss(self) -> None:
        assert not self.ended
        self.ended = True


@dataclass
class Stage:
    """A staff of actors; of those who are busy the last hired answers first."""

    script: Callable[[int, Task | None], Answer]
    size: int = 2
    hint: str = "a hint"
    actors: list[Actor] = field(default_factory=list)
    closed: bool = False

    def hire(self) -> Actor:
        self.actors.append(Actor(len(self.actors) + 1, self.script))
        return self.actors[-1]

    def answers(self, workers: Sequence[Worker], seconds: float) -> list[tuple[Worker, Answer]]:
        assert seconds > 0
        busy = [worker for worker in workers if isinstance(worker, Actor) and worker.busy]
        return [(busy[-1], busy[-1].answer())] if busy else []

    def close(self) -> None:
        self.closed = True


def good(_: int, task: Task | None) -> Answer:
    return Ready(HERE) if task is None else Done(task)


def pool_of(stage: Stage, said: list[str] | None = None) -> Pool:
    return Pool(stage, lambda: HERE, (said if said is not None else []).append)


@pytest.mark.parametrize("size", [1, 2, 5, 20])
def test_results_come_in_the_order_of_the_tasks(size: int) -> None:
    stage = Stage(good, size)
    pool = pool_of(stage)
    assert list(pool.run(TASKS)) == TASKS
    assert list(pool.run(TASKS[:2])) == TASKS[:2]
    assert list(pool.run([])) == []
    pool.close()
    assert len(stage.actors) == size
    assert stage.closed
    assert all(actor.ended for actor in stage.actors)


def test_nobody_is_hired_for_nothing() -> None:
    stage = Stage(good)
    pool = pool_of(stage)
    assert list(pool.run([])) == []
    pool.close()
    assert not stage.actors


def test_a_lost_worker_costs_its_task_only() -> None:
    asked, said = list[Task](), list[str]()

    def script(number: int, task: Task | None) -> Answer:
        if task is not None:
            asked.append(task)
        return Lost("gone") if number == 2 and len(asked) >= 3 else good(number, task)

    stage = Stage(script)
    assert list(pool_of(stage, said).run(TASKS)) == TASKS
    assert len(asked) == len(TASKS) + 1  # one was computed twice
    assert len(stage.actors) == 3
    assert stage.actors[1].ended
    assert said == ["note: worker 2 was lost (gone); what it was at is computed again"]


def test_a_task_that_takes_workers_along_ends_the_run() -> None:
    stage = Stage(lambda number, task: Lost("gone") if task == TASKS[3] else good(number, task))
    with pytest.raises(WorkerError, match="3 workers in a row were lost with the same task, the last: gone"):
        list(pool_of(stage).run(TASKS))


def test_answers_of_tasks_that_do_not_need_one_another() -> None:
    """One that raises and one that takes workers along are answers; all others are done."""

    def script(number: int, task: Task | None) -> Answer:
        if task == TASKS[1]:
            return Failed(DataError("no"))
        return Lost("gone") if task == TASKS[3] else good(number, task)

    pool = pool_of(Stage(script))
    found = dict(pool.answers(TASKS))
    assert sorted(found) == list(range(len(TASKS)))
    assert [found[place] for place in (0, 2, 4, 5, 6)] == [Done(TASKS[place]) for place in (0, 2, 4, 5, 6)]
    failed, lost = found[1], found[3]
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, DataError)
    assert isinstance(lost, Lost)
    assert lost.reason.startswith("3 workers in a row")
    assert list(pool.run(TASKS[4:])) == TASKS[4:]  # and the pool goes on


def test_losses_are_bounded_altogether() -> None:
    """Every worker does one task and is then lost with the next: no task is lost three times, but workers run out."""
    done = dict[int, int]()

    def script(number: int, task: Task | None) -> Answer:
        done[number] = done.get(number, -1) + 1
        return Lost("gone") if done[number] > 1 else good(number, task)

    tasks = [Forward(range(number, number + 1)) for number in range(99)]
    with pytest.raises(WorkerError, match="no worker is left, the last was lost: gone"):
        list(pool_of(Stage(script)).run(tasks))


def test_an_error_of_the_task_is_raised_at_once_and_the_pool_goes_on() -> None:
    asked = list[Task]()

    def script(number: int, task: Task | None) -> Answer:
        if task == TASKS[2]:
            asked.append(task)
            return Failed(DataError("of no use", "take others"))
        return good(number, task)

    pool = pool_of(Stage(script))
    with pytest.raises(DataError, match="of no use"):
        list(pool.run(TASKS))
    assert len(asked) == 1
    others = [*TASKS[:2], *TASKS[3:]]
    assert list(pool.run(others)) == others  # late answers to the run that ended are not taken for its own


def test_a_run_that_is_not_used_up_leaves_nothing_behind() -> None:
    pool = pool_of(Stage(good))
    run = pool.run(TASKS)
    assert next(run) == TASKS[0]
    del run
    assert list(pool.run(TASKS[::-1])) == TASKS[::-1]


@pytest.mark.parametrize("answer", [Lost("exit code 1"), Failed(ImportError("no such thing"))])
def test_a_worker_that_cannot_start(answer: Answer) -> None:
    stage = Stage(lambda number, task: answer)
    pool = pool_of(stage)
    with pytest.raises(WorkerError, match=r"worker 2 (ended at its start: exit code 1|could not start: ImportError: no such)"):
        list(pool.run(TASKS))
    pool.close()
    assert all(actor.ended for actor in stage.actors)


def test_a_replacement_that_cannot_start_is_done_without() -> None:
    def script(number: int, task: Task | None) -> Answer:
        return Lost("gone") if number > 2 or (number == 2 and task is not None) else good(number, task)

    stage = Stage(script)
    assert list(pool_of(stage).run(TASKS)) == TASKS
    assert len(stage.actors) > 3


@pytest.mark.parametrize(
    ("facts", "match"),
    [
        (Facts("0", "2", "probe", "there"), "worker 2 on there has qcompress 0"),
        (Facts("1", "3", "probe", "there"), "torch 3, expected 1 and 2 as here"),
    ],
)
def test_other_versions_are_refused(facts: Facts, match: str) -> None:
    with pytest.raises(WorkerError, match=match):
        list(pool_of(Stage(lambda number, task: Ready(facts) if task is None else Done(task))).run(TASKS))


def test_other_bits_are_told_once() -> None:
    said, other = list[str](), Facts("1", "2", "another", "there")
    stage = Stage(lambda number, task: Ready(other) if task is None else Done(task))
    assert list(pool_of(stage, said).run(TASKS)) == TASKS
    assert len(said) == 1
    assert "worker 2 on there computes other last bits" in said[0]


def test_an_interrupt_ends_the_workers_and_others_can_be_had() -> None:
    interrupted = list[int]()

    def script(number: int, task: Task | None) -> Answer:
        if task == TASKS[3] and not interrupted:
            interrupted.append(number)
            raise KeyboardInterrupt
        return good(number, task)

    stage = Stage(script)
    pool = pool_of(stage)
    with pytest.raises(KeyboardInterrupt):
        list(pool.run(TASKS))
    assert all(actor.ended for actor in stage.actors)
    assert list(pool.run(TASKS)) == TASKS
    assert len(stage.actors) == 4


def test_tasks_far_ahead_wait() -> None:
    """The first task is answered last: what is begun meanwhile is bounded, so that results do not pile up."""
    begun = list[Task]()

    def script(number: int, task: Task | None) -> Answer:
        if task is not None:
            begun.append(task)
        return good(number, task)

    class Late(Stage):
        def answers(self, workers: Sequence[Worker], seconds: float) -> list[tuple[Worker, Answer]]:
            busy = [worker for worker in workers if isinstance(worker, Actor) and worker.busy]
            late = [worker for worker in busy if worker.task != tasks[0]]
            return [(late[0], late[0].answer())] if late else super().answers(workers, seconds)

    tasks = [Forward(range(number, number + 1)) for number in range(60)]
    assert list(pool_of(Late(script)).run(tasks)) == tasks
    assert begun.index(tasks[0]) == 2 * 4 - 1
