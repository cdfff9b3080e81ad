"""Samplers of binary quadratic models, one per file, and the table that names them. Importing it loads no sampler."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from qcompress.errors import UsageError
from qcompress.solvers import plugins
from qcompress.solvers.annealing import Annealing
from qcompress.solvers.configured import configured
from qcompress.solvers.descent import SteepestDescent
from qcompress.solvers.enumeration import Enumeration
from qcompress.solvers.foreign import Foreign, from_dimod
from qcompress.solvers.profile import Profiles
from qcompress.solvers.protocol import CapacitySolver, Remote, Solver
from qcompress.solvers.remote import REMOTE, account_of, opened, ready, rounds_of
from qcompress.solvers.tabu import Tabu

__all__ = [
    "REMOTE",
    "SOLVERS",
    "Annealing",
    "CapacitySolver",
    "Enumeration",
    "Foreign",
    "Profiles",
    "Remote",
    "Solver",
    "SteepestDescent",
    "Tabu",
    "account_of",
    "from_dimod",
    "opened",
    "ready",
    "rounds_of",
    "solver",
]

SOLVERS: Mapping[str, Solver] = MappingProxyType(
    {
        "profile": Profiles(),
        "neal": Annealing(),
        "tabu": Tabu(),
        "steepest": SteepestDescent(),
        "exact": Enumeration(),
    }
)


def solver(name: str, **options: float | str | bool) -> Solver | Remote:
    """The backend called `name`, with some of its options set.

    It is looked for in `SOLVERS`, in `REMOTE`, then among the plugins.

    Raises UsageError for a name that is nowhere, and for an option that the backend does not have; BackendError for a plugin
    that cannot be loaded.

    >>> solver("neal", sweeps=50)
    Annealing(sweeps=50)
    """
    table = {**SOLVERS, **REMOTE}
    others = plugins.installed() if name not in table else {}
    if name not in table and name not in others:
        known = ", ".join(dict.fromkeys((*table, *others)))
        raise UsageError(f"backend {name!r} is unknown, expected one of {known}")
    backend = table[name] if name in table else plugins.load(others[name])
    found: Solver | Remote = configured(name, backend, options)
    return found
