"""The backends that are machines elsewhere, and how one is used for the length of a block. Importing it connects to nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from qcompress.solvers.account import Account
from qcompress.solvers.clique import Clique
from qcompress.solvers.cloud import token, translated
from qcompress.solvers.leap import Leap
from qcompress.solvers.leap_cqm import LeapCqm
from qcompress.solvers.protocol import CapacitySolver, Remote, Solver
from qcompress.solvers.qpu import Qpu

__all__ = ["REMOTE", "account_of", "opened", "ready", "rounds_of"]

REMOTE: Mapping[str, Remote] = MappingProxyType(
    {
        "qpu": Qpu(),
        "clique": Clique(),
        "leap": Leap(),
        "leap-cqm": LeapCqm(),
    }
)

ROUNDS = 8
"""Gammas that a search tries with a backend that does not say."""


def ready(name: str, backend: Solver | Remote) -> None:
    """What can be known without a connection: raises BackendError where `backend` needs a D-Wave account and has no token.

    A plugin's machine is its own affair: it says what is missing when it is opened.
    """
    if name in REMOTE:
        with translated(name):
            if token() is None:
                raise ValueError("API token not defined")


@contextmanager
def opened(backend: Solver | Remote, say: Callable[[str], None]) -> Iterator[Any]:
    """`backend` ready for use: connected where it is a machine elsewhere, else itself. Never another one in its place.

    Raises BackendError.
    """
    if isinstance(backend, Remote):
        with backend.open(say) as session:
            yield session
    else:
        yield backend


def account_of(session: Solver | CapacitySolver) -> Account | None:
    """What a remote session did; None for a backend that runs here."""
    return getattr(session, "account", None)


def rounds_of(session: Solver | CapacitySolver) -> int:
    """Gammas to try: few where each of them costs machine time."""
    return int(getattr(session, "rounds", ROUNDS))
