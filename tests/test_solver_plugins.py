from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint

import dimod
import pytest
from sapi.fixtures import problem

from qcompress.alignment import Alignment
from qcompress.budgets import CountBudget
from qcompress.doctor import diagnose
from qcompress.errors import BackendError, UsageError
from qcompress.searching import check_backend, search
from qcompress.settings import SearchOptions
from qcompress.solvers import SOLVERS, Annealing, Foreign, Solver, plugins, solver
from qcompress.solvers.remote import ROUNDS


class Far:
    """A machine elsewhere that keeps no account."""

    @contextmanager
    def open(self, say: Callable[[str], None]) -> Iterator[Solver]:
        say("free of charge")
        yield SOLVERS["steepest"]


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entry points as installed packages would declare them."""
    values = {
        "brute": "dimod:ExactSolver",
        "ours": "qcompress.solvers.annealing:Annealing",
        "gone": "no_such_package:Sampler",
        "wrong": "builtins:dict",
        "far": f"{__name__}:Far",
        "neal": "dimod:ExactSolver",
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
    assert solver("neal") == Annealing()  # ours goes first


@pytest.mark.usefixtures("declared")
def test_a_machine_elsewhere_of_a_plugin_needs_no_account_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DWAVE_API_TOKEN", raising=False)
    options, asked, said = SearchOptions(backend="far"), problem(6, 5), list[str]()
    check_backend(options)
    found = search(asked, CountBudget(asked.space, 4), Alignment(asked.space), options, 0, said.append)
    assert len(found.search.selection) == 4
    assert len(found.search.trace) == ROUNDS
    assert found.qpu is None
    assert said == ["free of charge"]


@pytest.mark.usefixtures("declared")
def test_the_doctor_tries_the_plugins() -> None:
    backends = diagnose().backends
    assert (backends["brute"], backends["far"], backends["neal"]) == ("", "", "")
    assert "cannot be loaded" in backends["gone"]


@pytest.mark.usefixtures("declared")
def test_a_plugin_that_fails_is_named() -> None:
    with pytest.raises(BackendError, match=r"backend gone \(no_such_package:Sampler\) cannot be loaded: ModuleNotFoundError"):
        solver("gone")
    with pytest.raises(BackendError, match=r"backend wrong .* made a dict, expected a dimod sampler or a backend"):
        solver("wrong")
    with pytest.raises(UsageError, match=r"backend brute has no option 'speed'"):
        solver("brute", speed=1)
    with pytest.raises(UsageError, match=r"'qaoa' is unknown, expected one of profile, .*brute, far, gone, ours, wrong$"):
        solver("qaoa")
