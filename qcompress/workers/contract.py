"""What is dealt to workers, what comes back, and who may be asked. Plain values, no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

__all__ = [
    "Answer",
    "Backward",
    "Crew",
    "Done",
    "Facts",
    "Failed",
    "Forward",
    "Lost",
    "Bench",
    "Candidate",
    "Point",
    "Ready",
    "Staff",
    "Task",
    "Worker",
]


@dataclass(frozen=True)
class Candidate:
    """The metric of one candidate, given by its pruned units, on some of the selection crops: (len(images),) float64."""

    pruned: tuple[int, ...]
    images: range


@dataclass(frozen=True)
class Forward:
    """The moments of one batch of calibration crops (`scoring.Moments`)."""

    images: range


@dataclass(frozen=True)
class Backward:
    """The mask gradients of one batch of calibration crops, with some units gone: (len(images), units) float64."""

    images: range
    pruned: tuple[int, ...] = ()


@dataclass(frozen=True)
class Point:
    """The network of a sweep at this share of its budget, but for what is timed: see `qcompress.sweeping.making`."""

    share: float


Task: TypeAlias = Candidate | Forward | Backward | Point


class Crew(Protocol):
    """Who computes tasks: this process, or workers."""

    def run(self, tasks: Sequence[Task]) -> Iterator[Any]:
        """The results, in the order of the tasks, each as soon as it and those before it are there.

        Raises what a task raised, and WorkerError where workers cannot be had or kept.
        """


@dataclass(frozen=True)
class Facts:
    """What has to be the same everywhere for the same results: our version, torch's, the bits of a forward pass; and where."""

    tool: str
    torch: str
    probe: str
    host: str


class Bench(Protocol):
    """What a worker works on."""

    def do(self, task: Task) -> Any:
        """The result of a task of its kind."""

    def facts(self) -> Facts:
        """What it computes with."""


class Load(Protocol):
    """What is sent to every worker, once: it can be pickled."""

    def bench(self, device: str) -> Bench:
        """The bench that a worker has of it, on its device."""


@dataclass(frozen=True)
class Ready:
    """A worker has what it needs and waits for its first task."""

    facts: Facts


@dataclass(frozen=True)
class Done:
    """A task's result."""

    value: Any


@dataclass(frozen=True)
class Failed:
    """What a task, or the start of a worker, raised."""

    error: Exception


@dataclass(frozen=True)
class Lost:
    """A worker is no more; `reason` says what is known about that."""

    reason: str


Answer: TypeAlias = Ready | Done | Failed | Lost


class Worker(Protocol):
    """One worker, of a `Staff`. It answers its start and then every task, once each, until it is lost."""

    @property
    def name(self) -> str:
        """How messages call it."""

    def give(self, task: Task) -> None:
        """Hands it a task; it must not have one. Never fails: that the worker is lost is an answer."""

    def dismiss(self) -> None:
        """Ends it, whatever it is at, and waits until it has ended where that can be known."""


class Staff(Protocol):
    """Where workers come from."""

    @property
    def size(self) -> int:
        """How many work at a time."""

    @property
    def hint(self) -> str:
        """What to look at where a worker ends at its start."""

    def hire(self) -> Worker:
        """A worker that starts; its first answer is Ready, Failed or Lost."""

    def answers(self, workers: Sequence[Worker], seconds: float) -> list[tuple[Worker, Answer]]:
        """What any of the workers answers, waiting for at most so long; an empty list where none does."""

    def close(self) -> None:
        """Gives back what the staff itself holds; the workers have been dismissed."""
