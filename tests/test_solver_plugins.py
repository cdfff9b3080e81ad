from __future__ import annotations

from importlib.metadata import EntryPoint

import dimod
import pytest

from qcompress.errors import BackendError, UsageError
from qcompress.solvers import Annealing, Foreign, plugins, solver


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entry points as installed packages would declare them."""
    values = {
        "brute": "dimod:ExactSolver",
        "ours": "qcompress.solvers.annealing:Annealing",
        "gone": "no_such_package:Sampler",
        "wrong": "builtins:dict",
    }
    points = [EntryPoint(name, value, plugins.GROUP) for name, value in values.items()]
    monkeypatch.setattr(plugins, "entry_points", lambda group: points if group == "qcompress.solvers" else [])


@pytest.mark.usefixtures("declared")
def test_a_plugin_is_found_by_name() -> None:
    found = solver("brute")
    assert isinstance(found, Foreign)
    bqm = dimod.BinaryQuadraticModel({"a": -1.0, "b": -1.0}, {("a", "b"): 3.0}, 0.0, "BINARY")
    assert found(bqm, reads=4, seed=0).first.energy == -1.0
    assert solver("ours", sweeps=7) == Annealing(sweeps=7)


@pytest.mark.usefixtures("declared")
def test_a_plugin_that_fails_is_named() -> None:
    with pytest.raises(BackendError, match=r"backend gone \(no_such_package:Sampler\) cannot be loaded: ModuleNotFoundError"):
        solver("gone")
    with pytest.raises(BackendError, match=r"backend wrong .* made a dict, expected a dimod sampler or a backend"):
        solver("wrong")
    with pytest.raises(UsageError, match=r"backend brute has no option 'speed'"):
        solver("brute", speed=1)
    with pytest.raises(UsageError, match=r"'qaoa' is unknown, expected one of profile, .*brute, gone, ours, wrong"):
        solver("qaoa")
