"""Samplers of binary quadratic models, one per file, and the table that names them. Importing it loads no sampler."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

from qcompress.errors import UsageError
from qcompress.solvers.annealing import Annealing
from qcompress.solvers.descent import SteepestDescent
from qcompress.solvers.enumeration import Enumeration
from qcompress.solvers.foreign import Foreign, from_dimod
from qcompress.solvers.protocol import Solver
from qcompress.solvers.tabu import Tabu

__all__ = ["SOLVERS", "Annealing", "Enumeration", "Foreign", "Solver", "SteepestDescent", "Tabu", "from_dimod", "solver"]

SOLVERS: Mapping[str, Solver] = MappingProxyType(
    {
        "neal": Annealing(),
        "tabu": Tabu(),
        "steepest": SteepestDescent(),
        "exact": Enumeration(),
    }
)


def solver(name: str, **options: float) -> Solver:
    """The backend called `name`, with some of its options set.

    Raises UsageError for a name that is not in `SOLVERS`, and for an option that the backend does not have.

    >>> solver("neal", sweeps=50)
    Annealing(sweeps=50)
    """
    if name not in SOLVERS:
        raise UsageError(f"backend {name!r} is unknown, expected one of {', '.join(SOLVERS)}")
    chosen = SOLVERS[name]
    known = [field.name for field in dataclasses.fields(chosen)]  # type: ignore[arg-type]
    for key in options:
        if key not in known:
            raise UsageError(f"backend {name} has no option {key!r}, expected one of: {', '.join(known) or '(it has none)'}")
    return dataclasses.replace(chosen, **options)  # type: ignore[type-var]
