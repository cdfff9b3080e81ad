"""`doctor`: what this installation can do, and what each backend would need."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.metadata import EntryPoint
from typing import Any

from qcompress import processor
from qcompress._version import __version__
from qcompress.errors import BackendError
from qcompress.solvers import REMOTE, SOLVERS, plugins
from qcompress.solvers.cloud_account import Configured, SolverSeen, configured, online_solvers

__all__ = ["Diagnosis", "Extra", "diagnose"]

_PACKAGES = ("torch", "onnx", "onnxruntime", "dimod", "dwave-samplers", "dwave-system", "dwave-cloud-client", "numpy", "scipy")
_LOCAL = ("dimod", "dwave-samplers")
_CLOUD = ("dwave-system", "dwave-cloud-client")
_NAME = re.compile(r"^[A-Za-z0-9._-]+")
_EXTRA = re.compile(r"extra\s*==\s*['\"]([^'\"]+)['\"]")


@dataclass(frozen=True)
class Extra:
    """A set of optional packages, and those of it that are missing."""

    name: str
    missing: tuple[str, ...]


@dataclass(frozen=True)
class Diagnosis:
    """`backends` maps each, plugins too, to what it needs before it can run; "" where nothing is missing that can be seen here.

    `solvers` is None where nobody asked (that takes the network), `unreachable` the reason where asking failed.
    """

    versions: dict[str, str]
    machine: str
    cores: int
    cpu_features: tuple[str, ...]
    int8: str
    providers: tuple[str, ...]
    torch: dict[str, Any]
    extras: tuple[Extra, ...]
    account: Configured | None
    account_error: str | None
    solvers: tuple[SolverSeen, ...] | None
    unreachable: str | None
    backends: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def rows(self) -> Iterator[tuple[str, str]]:
        """(what, finding) as text."""
        yield "versions", ", ".join(f"{name} {version}" for name, version in self.versions.items())
        yield "machine", f"{self.machine}, {self.cores} cores, {', '.join(self.cpu_features) or 'features unknown'}"
        yield "int8", self.int8
        yield "onnxruntime providers", ", ".join(self.providers) or "onnxruntime cannot be loaded"
        yield "torch", ", ".join(f"{name} {value}" for name, value in self.torch.items())
        for extra in self.extras:
            yield f"extra {extra.name}", f"missing: {', '.join(extra.missing)}" if extra.missing else "installed"
        if self.account is None:
            yield "D-Wave configuration", self.account_error or "-"
        else:
            yield "D-Wave configuration", ", ".join(self.account.files) or "no file"
            yield "D-Wave token", "present" if self.account.token else "none"
        for solver in self.solvers or ():
            chip = f" {solver.topology}, {solver.qubits} qubits" if solver.topology else ""
            yield f"solver {solver.name}", f"{solver.category}{chip}{'' if solver.online else ', offline'}"
        if self.unreachable:
            yield "D-Wave solvers", self.unreachable
        for name, needs in self.backends.items():
            yield f"backend {name}", needs or "ready"


def diagnose(*, online: bool = False) -> Diagnosis:
    """Looks around; with `online` it asks D-Wave for the solvers of the account, too. Raises nothing of its own."""
    account, account_error = None, None
    try:
        account = configured()
    except BackendError as error:
        account_error = error.message.removeprefix("backend qpu: ")
    solvers, unreachable = None, None
    if online:
        try:
            solvers = online_solvers()
        except BackendError as error:
            message = error.message.removeprefix("backend qpu: ")
            unreachable = f"{message} ({error.hint})" if error.hint else message
    versions, ours = _versions(), {*SOLVERS, *REMOTE}
    return Diagnosis(
        versions={"qcompress": __version__, "python": platform.python_version(), **versions},
        machine=f"{platform.system()} {platform.machine()}",
        cores=os.cpu_count() or 1,
        cpu_features=processor.features(),
        int8=processor.int8_support().sentence,
        providers=_providers(),
        torch=_torch(),
        extras=_extras(),
        account=account,
        account_error=account_error,
        solvers=solvers,
        unreachable=unreachable,
        backends={
            **{name: _missing(versions, _LOCAL) for name in SOLVERS},
            **{name: _missing(versions, _CLOUD) or _needs(name, account, solvers, unreachable) for name in REMOTE},
            **{name: _plugin_needs(point) for name, point in plugins.installed().items() if name not in ours},
        },
    )


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def _providers() -> tuple[str, ...]:
    from qcompress.exporters.providers import available_providers

    try:
        return available_providers()
    except ImportError:
        return ()


def _torch() -> dict[str, Any]:
    import torch

    cuda = torch.cuda.is_available()
    return {
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "cuda": torch.cuda.get_device_name(0) if cuda else "none",
    }


def _extras() -> tuple[Extra, ...]:
    """From the installed package's own metadata."""
    wanted: dict[str, list[str]] = {}
    for line in metadata.requires("qcompress") or ():
        name, extra = _NAME.match(line), _EXTRA.search(line)
        if name and extra:
            wanted.setdefault(extra[1], []).append(name[0])
    return tuple(Extra(extra, tuple(name for name in names if not _installed(name))) for extra, names in sorted(wanted.items()))


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _missing(versions: dict[str, str], packages: tuple[str, ...]) -> str:
    """What to install, of `packages`; nothing where all are there."""
    missing = [name for name in packages if versions[name] == "missing"]
    return f"pip install {' '.join(missing)}" if missing else ""


def _plugin_needs(point: EntryPoint) -> str:
    """Why a plugin cannot be loaded; nothing where it can. It is imported for that."""
    try:
        plugins.load(point)
    except BackendError as error:
        return f"{error.message} ({error.hint})"
    return ""


def _needs(name: str, account: Configured | None, solvers: tuple[SolverSeen, ...] | None, unreachable: str | None) -> str:
    """What is missing for a D-Wave backend, as far as was looked."""
    if account is None:
        return "a D-Wave configuration that can be read"
    if not account.token:
        return "a D-Wave token: `dwave setup`, or DWAVE_API_TOKEN"
    if unreachable is not None:
        return "a server that answers"
    category = "qpu" if name in ("qpu", "clique") else "hybrid"
    if solvers is not None and not any(solver.online and solver.category == category for solver in solvers):
        return f"an online {category} solver"
    return ""
