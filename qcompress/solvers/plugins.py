"""Backends of other packages, found by the entry point group `qcompress.solvers`."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from qcompress.errors import BackendError
from qcompress.solvers.foreign import from_dimod
from qcompress.solvers.protocol import CapacitySolver, ProfileSolver, Remote, Solver

__all__ = ["GROUP", "installed", "load"]

GROUP = "qcompress.solvers"


def installed() -> dict[str, EntryPoint]:
    """The entry points of this installation, by name. None of them is imported.

    One with the name of a backend that ships is there too, and never taken: ours goes first.
    """
    return {point.name: point for point in sorted(entry_points(group=GROUP), key=lambda point: point.name)}


def load(point: EntryPoint) -> Solver | Remote:
    """The backend that `point` names: a factory without arguments, such as a class, of a dimod sampler or of a backend.

    Options of a backend that is a dataclass are its fields, as for those that ship. A dimod sampler has none; it is told
    `num_reads` and `seed` where it takes them.

    Raises BackendError if it cannot be imported, fails, or makes something else.
    """
    try:
        made = point.load()()
    except Exception as error:  # foreign code
        raise BackendError(
            f"backend {point.name} ({point.value}) cannot be loaded: {type(error).__name__}: {error}",
            hint=f"reinstall the package that declares it under the entry point group {GROUP}",
        ) from error
    if isinstance(made, (Remote, CapacitySolver, ProfileSolver)):
        backend: Solver | Remote = made  # type: ignore[assignment]  # whatever a search takes
        return backend
    if hasattr(made, "sample") and hasattr(made, "parameters"):
        return from_dimod(made)
    if callable(made):
        solve: Solver = made
        return solve
    raise BackendError(
        f"backend {point.name} ({point.value}) made a {type(made).__name__}, expected a dimod sampler or a backend",
        hint=f"an entry point of {GROUP} is a factory without arguments",
    )
