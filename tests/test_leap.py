"""Leap's hybrid solvers through the real client, against the loopback server."""

from __future__ import annotations

import dimod
import numpy as np
import pytest
from sapi.fixtures import cloud, model, nothing_configured, problem
from sapi.server import Cloud, Fault

from qcompress.alignment import Alignment
from qcompress.budgets import Budget, CountBudget, budget
from qcompress.errors import BackendError
from qcompress.problem import Problem
from qcompress.search import to_capacity
from qcompress.solvers import SOLVERS, CapacitySolver, account_of, opened, rounds_of, solver
from qcompress.solvers.leap_cqm import constrained

__all__ = ["cloud", "nothing_configured"]  # fixtures


def quiet(text: str) -> None:
    """Tells nobody."""


def cost(asked: Problem) -> Budget:
    """Half of a cost in which groups are worth 1, 2, 3 ..."""

    def price(counts: object) -> int:
        assert isinstance(counts, dict)
        sizes = zip(asked.space.groups, asked.space.sizes, strict=True)
        return sum((g + 1) * (size - counts.get(name, 0)) ** 2 for g, (name, size) in enumerate(sizes))

    return budget("macs", 0.5, asked.space, price, price)


def exact(model: dimod.ConstrainedQuadraticModel) -> dimod.SampleSet:
    found = dimod.ExactCQMSolver().sample_cqm(model)  # type: ignore[no-untyped-call]
    feasible: dimod.SampleSet = found.filter(lambda row: row.is_feasible)
    return feasible


def test_hybrid_energies_are_true_and_time_is_announced(cloud: Cloud) -> None:
    said: list[str] = []
    bqm = model(9, 9)
    with opened(solver("leap", rounds=1), said.append) as session:
        found = session(bqm, reads=4, seed=0)
        assert len(session(dimod.BinaryQuadraticModel("BINARY"), reads=2, seed=0).variables) == 0
    np.testing.assert_allclose(found.record.energy, bqm.energies((found.record.sample, found.variables)), atol=1e-9)
    assert found.first.energy == pytest.approx(SOLVERS["exact"](bqm, reads=1, seed=0).first.energy)
    assert session.account.access_s == 3.0
    assert session.account.solver == "hybrid_bqm_solver"
    assert "s of solver time, at most 60 s allowed" in said[0]


def test_hybrid_search_meets_the_count(cloud: Cloud) -> None:
    asked = problem(8, 8, seed=5)
    with opened(solver("leap", rounds=2), quiet) as session:
        result = to_capacity(asked, CountBudget(asked.space, 7), session, 0, rounds=rounds_of(session))
    assert len(result.selection) == 7
    assert len(session.account.probes) == len(cloud.jobs) == 2


@pytest.mark.parametrize("name", ["leap", "leap-cqm"])
def test_more_time_than_allowed_is_refused_beforehand(name: str, cloud: Cloud) -> None:
    asked = problem(6)
    with opened(solver(name, max_seconds=0.1), quiet) as session, pytest.raises(BackendError, match=r"at most 0\.1 s"):
        to_capacity(asked, CountBudget(asked.space, 3), session, 0)
    assert not cloud.jobs


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "message"), [
    (Fault("POST", "problems", 400, 9, "quota exceeded"), "is used up"),
    (Fault("POST", "problems", "cancel", 9), "was cancelled"),
    (Fault("POST", "bqm/multipart", 401, 99), "refused the API token"),
])  # fmt: skip
@pytest.mark.parametrize("name", ["leap", "leap-cqm"])
def test_faults(name: str, fault: Fault, message: str, cloud: Cloud) -> None:
    asked = problem(6)
    cloud.faults.append(Fault(fault.method, fault.path, fault.what, fault.times, fault.text))
    with opened(solver(name), quiet) as session, pytest.raises(BackendError, match=message):
        to_capacity(asked, CountBudget(asked.space, 3), session, 0)


def test_constrained_search_meets_the_count(cloud: Cloud) -> None:
    asked = problem(8, 8, seed=5)
    with opened(solver("leap-cqm"), quiet) as session:
        assert isinstance(session, CapacitySolver)
        result = to_capacity(asked, CountBudget(asked.space, 7), session, 0)
    assert len(result.selection) == 7
    assert result.trace == ()
    assert result.reads > 0
    account = account_of(session)
    assert account is not None
    assert (account.submissions, account.access_s) == (1, 3.0)


@pytest.mark.slow
def test_five_thousand_variables_with_a_constraint(cloud: Cloud) -> None:
    asked = problem(*[50] * 100)
    with opened(solver("leap-cqm"), quiet) as session:
        result = to_capacity(asked, CountBudget(asked.space, 2500), session, 0)
    assert len(result.selection) == 2500
    assert len(cloud.jobs) == 1


def test_the_model_with_the_count_is_the_problem_itself() -> None:
    """Its optimum is that of all selections of that count within the floors."""
    asked = problem(5, 4)
    best = exact(constrained(asked, CountBudget(asked.space, 5), Alignment(asked.space)))
    every = ((np.arange(2**9)[:, None] >> np.arange(9)) & 1).astype(bool)
    fits = [x for x in every if x.sum() == 5 and asked.space.allows(x)]
    assert len(best) == len(fits)
    assert best.first.energy == pytest.approx(float(asked.energy(np.array(fits)).min()))


def test_allowed_counts_are_constraints() -> None:
    asked = problem(6, 3)
    alignment = Alignment(asked.space, 4)
    assert alignment.allowed[0] == (0, 2)
    found = exact(constrained(asked, CountBudget(asked.space, 3), alignment))
    order = [found.variables.index(f"x{place}") for place in range(9)]
    for row in found.record.sample[:, order]:
        assert alignment.allows(asked.space.counts(row > 0))


def test_a_cost_is_linear_there_and_exact_in_the_end(cloud: Cloud) -> None:
    asked = problem(6, 6)
    target = cost(asked)
    with opened(solver("leap-cqm"), quiet) as session:
        result = to_capacity(asked, target, session, 0)
    assert result.capacity >= target.target
    assert result.energy <= result.greedy_energy + 1e-9
