"""The loopback server as fixtures, and models to send to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dimod
import numpy as np
import pytest

from qcompress.problem import Problem
from qcompress.selection import Unit, UnitSpace
from qcompress.solvers import cloud as client
from sapi.server import Cloud, annealer, hybrids, serving


@pytest.fixture(autouse=True)
def nothing_configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No D-Wave configuration of the machine that runs the tests, no caches between tests, no long pauses."""
    for name in ("DWAVE_API_TOKEN", "DWAVE_API_ENDPOINT", "DWAVE_CONFIG_FILE", "DWAVE_PROFILE", "DWAVE_API_SOLVER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "config"))
    monkeypatch.setenv("DWAVE_CACHE_ENABLED", "false")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(client, "PAUSES_S", (0.01, 0.01))


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """A Pegasus P4, a smaller Zephyr Z2, and two hybrid solvers; the environment points at them."""

    def connect(url: str, token: str) -> None:
        monkeypatch.setenv("DWAVE_API_ENDPOINT", url)
        monkeypatch.setenv("DWAVE_API_TOKEN", token)

    with serving([annealer("pegasus", 4), annealer("zephyr", 2), *hybrids()], connect) as state:
        yield state


def problem(*sizes: int, seed: int = 0) -> Problem:
    """Groups of these sizes, fully coupled, redundancy-dominated."""
    rng = np.random.default_rng(seed)
    space = UnitSpace.of((f"g{g}", size) for g, size in enumerate(sizes))
    couplings = []
    for size in sizes:
        square = np.triu(rng.uniform(0, 1, (size, size)), 1)
        couplings.append(square + square.T)
    return Problem(space, rng.uniform(0, 1, len(space)), tuple(couplings))


def model(*sizes: int, seed: int = 0) -> dimod.BinaryQuadraticModel:
    """`problem` at a gamma that prunes about half of each group."""
    return problem(*sizes, seed=seed).to_bqm(gamma=max(sizes, default=1) / 4)


UNIT = Unit("g0", 0)
