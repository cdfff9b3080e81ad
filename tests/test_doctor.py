from __future__ import annotations

import json

import pytest
from sapi.fixtures import cloud, nothing_configured
from sapi.server import Cloud, Fault

from qcompress import doctor
from qcompress.cli.main import main
from qcompress.solvers import REMOTE, SOLVERS

__all__ = ["cloud", "nothing_configured"]  # fixtures


def test_without_an_account(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {found["backends"][name] for name in SOLVERS} == {""}
    assert all("dwave setup" in found["backends"][name] for name in REMOTE)
    assert found["account"] == {"files": [], "token": False}
    assert found["solvers"] is None
    assert "CPUExecutionProvider" in found["providers"]
    assert found["versions"]["torch"] != "missing"
    assert {"dev"} <= {extra["name"] for extra in found["extras"]}


def test_the_token_is_present_and_not_shown(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["doctor", "--json"], ["doctor"], ["doctor", "--online"], ["doctor", "--online", "--json"]):
        assert main(arguments) == 0
        shown = capsys.readouterr()
        assert cloud.token not in shown.out + shown.err
        assert ("present" in shown.out) or json.loads(shown.out)["account"]["token"] is True
    assert doctor.diagnose().backends["qpu"] == ""


def test_online_lists_the_solvers(cloud: Cloud) -> None:
    found = doctor.diagnose(online=True)
    assert found.solvers is not None
    assert [solver.topology for solver in found.solvers if solver.category == "qpu"] == ["pegasus", "zephyr"]
    assert set(found.backends.values()) == {""}
    cloud.solvers[:] = [solver for solver in cloud.solvers if "qubits" in solver["properties"]]
    assert doctor.diagnose(online=True).backends["leap"] == "an online hybrid solver"


def test_offline_makes_no_request(cloud: Cloud) -> None:
    doctor.diagnose()
    assert cloud.requests == []


def test_a_refused_token_is_said_and_ends_with_5(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    cloud.faults.append(Fault("GET", "solvers", 401, 99))
    assert main(["doctor", "--online", "--json"]) == 5
    found = json.loads(capsys.readouterr().out)
    assert "refused the API token" in found["unreachable"]
    assert found["backends"]["qpu"] == "a server that answers"
    assert list(doctor.diagnose(online=True).rows())
