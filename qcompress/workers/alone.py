"""The crew that is this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from qcompress.workers.bench import Bench, threads
from qcompress.workers.contract import Task

__all__ = ["Alone"]


class Alone:
    """Does the tasks itself, one after the other, in so many threads of torch (None: as many as torch takes)."""

    def __init__(self, bench: Callable[[], Bench], number: int | None) -> None:
        self._make, self._threads = bench, number
        self._bench: Bench | None = None

    def run(self, tasks: Sequence[Task]) -> Iterator[Any]:
        """See `Crew`."""
        if self._bench is None:
            self._bench = self._make()
        for task in tasks:
            with threads(self._threads):
                value = self._bench.do(task)
            yield value
