"""What is known of the D-Wave account that a backend would use; the token is known to be there or not, and never shown."""

from __future__ import annotations

from dataclasses import dataclass

from qcompress.solvers.cloud import token, translated

__all__ = ["Configured", "SolverSeen", "configured", "online_solvers"]

SECONDS = 10
"""A server that does not answer in this time counts as out of reach."""


@dataclass(frozen=True)
class Configured:
    """Configuration files that D-Wave's client reads, and whether any of them, or the environment, holds a token."""

    files: tuple[str, ...]
    token: bool


@dataclass(frozen=True)
class SolverSeen:
    """A solver that the account may use: `category` is qpu or hybrid; topology and qubits are a QPU's."""

    name: str
    category: str
    topology: str | None
    qubits: int | None
    online: bool


def configured() -> Configured:
    """Reads files and the environment only. Raises BackendError for a damaged file."""
    with translated("qpu"):
        from dwave.cloud.config import get_configfile_paths  # type: ignore[import-untyped]

        return Configured(tuple(map(str, get_configfile_paths())), token() is not None)


def online_solvers() -> tuple[SolverSeen, ...]:
    """What the account may use, by name. Raises BackendError where the server cannot be reached or refuses the token."""
    with translated("qpu"):
        from dwave.cloud import Client  # type: ignore[import-untyped]

        with Client.from_config(client="base", request_timeout=SECONDS, http_retry_total=1) as client:
            found = client.get_solvers(refresh=True)
            return tuple(
                SolverSeen(
                    name=str(solver.name),
                    category=str(solver.properties.get("category", "")),
                    topology=solver.properties.get("topology", {}).get("type"),
                    qubits=len(solver.properties["qubits"]) if "qubits" in solver.properties else None,
                    online=bool(solver.online),
                )
                for solver in sorted(found, key=lambda solver: str(solver.name))
            )
