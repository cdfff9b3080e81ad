"""How a run tells what it is doing. The pipeline speaks to an Observer; the command line draws it, a library user may ignore it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

__all__ = ["SILENT", "Advance", "Observer", "Silent"]


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
