"""How a run tells what it is doing: the pipeline speaks to an Observer; the command line draws it, others may ignore it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

__all__ = ["SILENT", "Advance", "Observer", "Silent", "Stopwatch"]


class Advance(Protocol):
    """Told how far a stage has come: `done` of its total, and a short note (the best metric so far, say)."""

    def __call__(self, done: float, note: str = "") -> None: ...


class Observer(Protocol):
    """Sees a run go by."""

    def stage(self, name: str, total: float | None = None) -> AbstractContextManager[Advance]:
        """Opens the stage `name`; `total` is None where the amount of work is not known before."""

    def say(self, text: str) -> None:
        """One line that the user should read."""


class Silent:
    """An observer that does nothing."""

    @contextmanager
    def stage(self, name: str, total: float | None = None) -> Iterator[Advance]:
        """A stage nobody watches."""

        def advance(done: float, note: str = "") -> None:
            del done, note

        yield advance

    def say(self, text: str) -> None:
        """Says it to nobody."""


SILENT = Silent()


class Stopwatch:
    """An observer that passes everything on and keeps the seconds of every stage that ended, by name."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self.seconds: dict[str, float] = {}

    def say(self, text: str) -> None:
        """Passed on."""
        self._observer.say(text)

    @contextmanager
    def stage(self, name: str, total: float | None = None) -> Iterator[Advance]:
        """Passed on, and timed; a name used again adds up."""
        started = time.monotonic()
        with self._observer.stage(name, total) as advance:
            yield advance
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started
