"""The annealer through the real client: dwave-cloud-client, DWaveSampler and DWaveCliqueSampler against a loopback server."""

from __future__ import annotations

import ast
import json
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dimod
import numpy as np
import pytest
from sapi.fixtures import UNIT, cloud, model, nothing_configured, problem
from sapi.server import Cloud, Fault

import qcompress
from qcompress.budgets import CountBudget
from qcompress.errors import BackendError, UsageError
from qcompress.search import to_capacity
from qcompress.solvers import REMOTE, SOLVERS, account_of, opened, rounds_of, solver
from qcompress.solvers.chip import Pack

__all__ = ["cloud", "nothing_configured"]  # fixtures

CHIPS = pytest.mark.parametrize("name", ["qpu", "clique"])
TOPOLOGIES = pytest.mark.parametrize("topology", ["pegasus", "zephyr"])


def quiet(text: str) -> None:
    """Tells nobody."""


@CHIPS
@TOPOLOGIES
@pytest.mark.parametrize("sizes", [(6, 6, 6), (2, 5, 8), (12,), (1, 3)])
def test_energies_are_true_and_variables_complete(name: str, topology: str, sizes: tuple[int, ...], cloud: Cloud) -> None:
    bqm = model(*sizes)
    with opened(solver(name, topology=topology), quiet) as session:
        found = session(bqm, reads=20, seed=1)
        assert session.account.topology == topology
    assert len(found) >= 20
    assert set(found.variables) == set(bqm.variables)
    np.testing.assert_allclose(found.record.energy, bqm.energies((found.record.sample, found.variables)), atol=1e-9)
    lowest = SOLVERS["exact"](bqm, reads=1, seed=0).first.energy
    assert found.first.energy == pytest.approx(lowest)


@CHIPS
def test_edge_cases(name: str, cloud: Cloud) -> None:
    with opened(solver(name), quiet) as session:
        assert len(session(dimod.BinaryQuadraticModel("BINARY"), reads=3, seed=0).variables) == 0
        for bias in (-1.0, 0.0, 1.0):
            one = dimod.BinaryQuadraticModel({UNIT: bias}, {}, 0.0, "BINARY")
            assert session(one, reads=3, seed=0).first.energy == min(bias, 0.0)
        spins = model(5, 5).change_vartype(dimod.SPIN, inplace=False)
        found = session(spins, reads=5, seed=0)
        assert found.vartype is dimod.SPIN
        np.testing.assert_allclose(found.record.energy, spins.energies((found.record.sample, found.variables)), atol=1e-9)
    assert all(job["type"] in ("ising", "qubo") for job in cloud.jobs)


@CHIPS
def test_a_block_larger_than_allowed_is_split(name: str, cloud: Cloud) -> None:
    bqm = model(20, 6)
    with opened(solver(name, largest=10), quiet) as session:
        found = session(bqm, reads=20, seed=0)
        (split,) = session.account.split
        probe = session.account.probes[0]
    assert (split.block, split.units, split.on_chip) == ("g0", 20, 10)
    assert session.account.largest_on_chip == 10
    assert probe.polished <= probe.raw <= probe.start + 1e-9 or probe.polished <= probe.start
    assert found.first.energy == pytest.approx(probe.polished)
    lowest = SOLVERS["tabu"](bqm, reads=20, seed=0).first.energy
    assert lowest - 1e-9 <= found.first.energy <= 0.98 * lowest  # energies are negative


def test_a_block_larger_than_the_chip_is_split_too(cloud: Cloud) -> None:
    with opened(solver("qpu", topology="zephyr"), quiet) as session:
        session(model(40), reads=5, seed=0)
        account = session.account
    assert 16 <= account.largest_on_chip < 40
    assert account.split[0].on_chip == account.largest_on_chip


@CHIPS
def test_the_account_says_what_it_cost(name: str, cloud: Cloud) -> None:
    said: list[str] = []
    with opened(solver(name, rounds=2, reads=10), said.append) as session:
        for seed in range(2):
            session(model(6, 6, seed=seed), reads=1, seed=seed)
        account = session.account
    assert account.solver == "pegasus_288q_mock"  # by its qubits, not by name
    assert account.graph_id == "pegasus_288"
    assert account.submissions == len(cloud.jobs) == (2 if name == "qpu" else 4)
    assert account.access_s == pytest.approx(account.submissions * 0.016)
    assert 0.5 * account.access_s < account.estimated_s < 3 * account.access_s
    assert (account.reads, account.blocks, account.bits) == (10, 2, 6)
    assert account.qubits and account.longest_chain
    assert account.chain_break_fraction is not None
    assert 0 < (account.coefficient_error or 0) < 0.2
    assert 0 <= (account.precision_loss or 0) < 0.2
    assert len(account.probes) == 2
    for probe in account.probes:
        assert probe.polished <= probe.raw + 1e-9
    assert len(said) == 1
    assert "of machine time, at most 10 s allowed" in said[0]


def test_embeddings_are_found_once(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    from qcompress.solvers import embedding, qpu

    calls = []

    def counted(graph: Any, sizes: Sequence[int]) -> tuple[Pack, ...]:
        calls.append(sizes)
        return embedding.pack_cliques(graph, sizes)

    monkeypatch.setattr(qpu, "pack_cliques", counted)
    with opened(solver("qpu"), quiet) as session:
        for seed in range(3):
            session(model(6, 6, seed=seed), reads=2, seed=seed)
    assert calls == [(6, 6)]


@CHIPS
def test_spin_reversals_and_options_reach_the_server(name: str, cloud: Cloud) -> None:
    bqm = model(8, seed=3)
    options: dict[str, float | str | bool] = {"spin_reversals": "3", "reads": "30", "annealing_us": "50", "polish": "false"}
    with opened(solver(name, **options), quiet) as session:
        found = session(bqm, reads=1, seed=0)
        assert session.account.probes[0].raw == session.account.probes[0].polished
        assert (session.account.submissions, session.account.reads) == (3, 10)
    assert [job["params"]["num_reads"] for job in cloud.jobs] == [10, 10, 10]
    assert all(job["params"]["annealing_time"] == 50.0 for job in cloud.jobs)
    assert len({job["data"]["lin"] for job in cloud.jobs}) == 3  # three gauges of one problem
    np.testing.assert_allclose(found.record.energy, bqm.energies((found.record.sample, found.variables)), atol=1e-9)


@pytest.mark.parametrize("name", ["qpu", "clique"])
def test_the_search_meets_the_count_exactly(name: str, cloud: Cloud) -> None:
    asked = problem(8, 8, seed=5)
    with opened(solver(name, rounds=3), quiet) as session:
        result = to_capacity(asked, CountBudget(asked.space, 7), session, 0, rounds=rounds_of(session))
        account = account_of(session)
    assert len(result.selection) == 7
    assert account is not None
    assert len(account.probes) == len(result.trace) == 3
    best = to_capacity(asked, CountBudget(asked.space, 7), solver("exact"), 0, reads=200)  # type: ignore[arg-type]
    assert result.energy == pytest.approx(best.energy)


FAULTS = {
    "refused token": (Fault("GET", "solvers", 401, 99), "refused the API token", "dwave setup"),
    "no such solver": (Fault("GET", "solvers", 404, 99, "no such solver"), "backend qpu: ", "--backend profile"),
    "too many": (Fault("POST", "problems", 429, 99, "too many requests"), "takes no more problems", "wait"),
    "server fails": (Fault("POST", "problems", 500, 99, "internal"), "internal", "--backend profile"),
    "quota": (Fault("POST", "problems", 400, 99, "Insufficient remaining solver access time"), "is used up", "usage"),
    "forbidden": (Fault("POST", "problems", 403, 99, "solver not allowed"), "solver not allowed", "--backend profile"),
    "offline": (Fault("POST", "problems", 404, 99, "Solver is offline"), "offline", "--backend profile"),
    "cancelled": (Fault("POST", "problems", "cancel", 99), "was cancelled", "run the same command again"),
    "failed": (Fault("POST", "problems", "fail", 99), "backend qpu: ", "run the same command again"),
    "reset": (Fault("POST", "problems", "reset", 99), "cannot be reached", "dwave ping"),
    "truncated": (Fault("GET", "problems/problem-", "truncate", 99), "the answer broke off", "dwave ping"),
    "garbled": (Fault("POST", "problems", "garble", 99), "cannot be read", "run the same command again"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_is_one_line_and_a_next_step(
    case: str, cloud: Cloud, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fault, message, hint = FAULTS[case]
    monkeypatch.setenv("DWAVE_HTTP_RETRY_TOTAL", "1")
    cloud.faults.append(fault)
    with caplog.at_level(1), pytest.raises(BackendError) as caught, opened(solver("qpu"), quiet) as session:
        session(model(6), reads=3, seed=0)
    error = caught.value
    assert message in error.message
    assert "\n" not in error.message
    assert hint in (error.hint or "")
    assert error.exit_code == 5
    assert cloud.token not in f"{error.message}{error.hint}{error.__cause__}"
    assert any("***" in record.getMessage() for record in caplog.records)  # the client does log it
    assert not [record for record in caplog.records if cloud.token in record.getMessage()]


def test_a_server_that_fails_once_is_asked_again(cloud: Cloud) -> None:
    cloud.faults.append(Fault("POST", "problems", 500, 1, "internal"))
    with opened(solver("qpu"), quiet) as session:
        assert len(session(model(6), reads=3, seed=0)) >= 3
        assert session.account.submissions == len(cloud.jobs) == 1


def test_a_slow_answer_is_waited_for(cloud: Cloud) -> None:
    cloud.faults.append(Fault("POST", "problems", "slow", 1))
    with opened(solver("qpu"), quiet) as session:
        assert len(session(model(6), reads=3, seed=0)) >= 3
    assert cloud.requests.count(("GET", "problems")) >= 3


@pytest.mark.slow  # the client takes ten seconds to give up
@pytest.mark.parametrize("name", ["qpu", "leap-cqm"])
def test_nobody_listens(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: refused
        monkeypatch.setenv("DWAVE_API_ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}/sapi/v2/")
        monkeypatch.setenv("DWAVE_API_TOKEN", "secret-token")
        monkeypatch.setenv("DWAVE_HTTP_RETRY_TOTAL", "0")
        with pytest.raises(BackendError, match="cannot be reached") as caught, opened(solver(name), quiet):
            pass
    assert "dwave ping" in (caught.value.hint or "")
    assert "secret-token" not in str(caught.value)


@pytest.mark.parametrize("name", REMOTE)
def test_without_a_token(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DWAVE_API_ENDPOINT", "http://127.0.0.1:9/sapi/v2/")
    with pytest.raises(BackendError, match=rf"backend {name}: no D-Wave API token") as caught, opened(solver(name), quiet):
        pass
    assert "dwave setup" in (caught.value.hint or "")
    assert "DWAVE_API_TOKEN" in (caught.value.hint or "")


def test_a_damaged_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.conf").write_text("token = x\n[[[")
    monkeypatch.setenv("DWAVE_CONFIG_FILE", str(tmp_path / "broken.conf"))
    with pytest.raises(BackendError, match="configuration file cannot be used"), opened(solver("qpu"), quiet):
        pass


def test_a_solver_that_is_not_there(cloud: Cloud) -> None:
    for options in ({"solver": "Advantage_system9.9"}, {"topology": "chimera"}):
        with pytest.raises(BackendError, match="no such solver is online"), opened(solver("qpu", **options), quiet):
            pass


@CHIPS
def test_more_time_than_allowed_is_refused_beforehand(name: str, cloud: Cloud) -> None:
    with opened(solver(name, max_seconds=0.01), quiet) as session, pytest.raises(BackendError) as caught:
        session(model(6), reads=3, seed=0)
    assert "at most 0.01 s are allowed" in caught.value.message
    assert "--max-qpu-seconds" in (caught.value.hint or "")
    assert not cloud.jobs


def test_time_is_checked_along_the_way(cloud: Cloud) -> None:
    """Two rounds were announced; whoever asks for more is stopped at the limit."""
    with opened(solver("qpu", rounds=2, max_seconds=0.1), quiet) as session, pytest.raises(BackendError, match="allowed"):
        for seed in range(9):
            session(model(6), reads=3, seed=seed)
    assert 2 <= len(cloud.jobs) < 9


def test_options_are_checked() -> None:
    with pytest.raises(UsageError, match="backend qpu has no option 'speed', expected one of: solver, topology, largest"):
        solver("qpu", speed=1)
    with pytest.raises(UsageError, match="reads is 'many', expected a whole number"):
        solver("qpu", reads="many")
    with pytest.raises(UsageError, match="max_seconds is 'nan', expected a number of 0 or more"):
        solver("qpu", max_seconds="nan")
    with pytest.raises(UsageError, match="polish is 'maybe', expected true or false"):
        solver("qpu", polish="maybe")


@pytest.mark.parametrize(("name", "least"), [("largest", 2), ("rounds", 1), ("bits", 1)])
def test_nothing_turns_the_machine_off(name: str, least: int) -> None:
    """With no unit on the chip the classical start would be the answer."""
    with pytest.raises(UsageError, match=f"{name} is {least - 1}, expected at least {least}"):
        solver("qpu", **{name: least - 1})
    with pytest.raises(UsageError, match="chain_strength is 0, expected more than 0"):
        solver("clique", chain_strength=0)
    with pytest.raises(UsageError, match="rounds is 0, expected at least 1"):
        solver("leap", rounds=0)


def test_a_chip_on_which_nothing_fits_is_an_error(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    from qcompress.solvers import qpu

    monkeypatch.setattr(qpu, "largest_clique", lambda graph, limit: 1)
    with opened(solver("qpu"), quiet) as session, pytest.raises(BackendError, match="no two coupled units fit on pegasus"):
        session(model(6), reads=3, seed=0)
    assert not cloud.jobs


@pytest.mark.parametrize(("reads", "asked"), [(7, 7), (0, 3)])
def test_reads_are_those_of_the_option(reads: int, asked: int, cloud: Cloud) -> None:
    with opened(solver("qpu", reads=reads), quiet) as session:
        session(model(6), reads=3, seed=0)
    assert [job["params"]["num_reads"] for job in cloud.jobs] == [asked]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "qpu",
        "clique",
        pytest.param("leap", marks=pytest.mark.xfail(strict=False, reason="the loopback answers in part on a busy machine")),
    ],
)
def test_five_thousand_variables(name: str, cloud: Cloud) -> None:
    bqm = model(*[50] * 100)
    options: dict[str, float | str | bool] = {} if name == "leap" else {"reads": 2, "largest": 4}
    with opened(solver(name, rounds=1, **options), quiet) as session:
        found = session(bqm, reads=2, seed=0)
        assert len(session.account.split) == (0 if name == "leap" else 100)
    assert set(found.variables) == set(bqm.variables)
    np.testing.assert_allclose(found.record.energy, bqm.energies((found.record.sample, found.variables)), rtol=1e-9)


@pytest.mark.parametrize("name", REMOTE)
def test_what_a_seed_is_worth_is_said(name: str, cloud: Cloud) -> None:
    with opened(solver(name), quiet) as session:
        assert "seed" in (type(session).__doc__ or "")


def test_the_token_is_in_no_answer(cloud: Cloud) -> None:
    with opened(solver("qpu"), quiet) as session:
        found = session(model(6), reads=3, seed=0)
        account = session.account
    assert cloud.token not in repr(account) + repr(found.info) + json.dumps(cloud.jobs)


def test_only_these_files_import_the_cloud() -> None:
    allowed = {"qpu", "clique", "leap", "leap_cqm", "cloud", "cloud_account", "embedding"}
    root = Path(qcompress.__file__).parent
    users = set()
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.startswith(("dwave.system", "dwave.cloud", "minorminer")) for name in names):
                users.add(path.relative_to(root).as_posix())
    assert users == {f"solvers/{name}.py" for name in allowed}
