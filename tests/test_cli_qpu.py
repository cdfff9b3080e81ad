"""The commands around a D-Wave account, as a person runs them, against the loopback server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from sapi.fixtures import cloud, nothing_configured
from sapi.server import Cloud, Fault

from qcompress import choosing
from qcompress.cli.main import main

__all__ = ["cloud", "nothing_configured"]  # fixtures

FAST = ["--refine-evals", "0", "--size", "48", "--recover", "none", "--noise", "gaussian:25"]


def no_token_below(folder: Path, token: str) -> None:
    for path in folder.rglob("*"):
        assert not path.is_file() or token.encode() not in path.read_bytes(), path


@pytest.mark.slow
def test_prune_with_the_annealer(
    cloud: Cloud, checkpoint: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = ["--backend", "qpu", "--backend-option", "reads=20", "--backend-option", "largest=5", "--max-qpu-seconds", "3"]
    assert main(["prune", str(checkpoint), "--data", str(images), "-o", str(out), *FAST, *options]) == 0
    report = json.loads((out / "report.json").read_text())
    qpu = report["search"]["qpu"]
    assert report["units"]["pruned"] == 20
    assert qpu["submissions"] == len(cloud.jobs) > 0
    assert qpu["reads"] == 20
    assert {block["on_chip"] for block in qpu["split"]} == {5}
    assert qpu["classical_energy"] is not None
    assert any("did not improve on" in note for note in report["notes"])  # eight units a group: classical search is exact
    assert "--backend qpu" in report["command"]
    assert "--backend-option reads=20 --backend-option largest=5 --backend-option max_seconds=3.0" in report["command"]
    assert "chain breaks" in (out / "report.md").read_text()
    shown = capsys.readouterr()
    assert "of machine time, at most 3 s allowed" in shown.err
    assert cloud.token not in shown.out + shown.err
    no_token_below(tmp_path, cloud.token)


def test_a_search_elsewhere_cannot_be_repeated(cloud: Cloud, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prune", str(checkpoint), "--backend", "qpu", "--resume", "-q"]) == 2
    assert "--resume: a search by qpu" in capsys.readouterr().err
    assert not cloud.jobs


@pytest.mark.slow
def test_scores_outlive_a_failure(
    cloud: Cloud, checkpoint: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["prune", str(checkpoint), "--data", str(images), "-o", str(out), *FAST]
    cloud.faults.append(Fault("POST", "problems", 400, 99, "Insufficient remaining solver access time"))
    assert main([*arguments, "--backend", "qpu"]) == 5
    shown = capsys.readouterr()
    assert "the account's solver time is used up" in shown.err
    assert "the scores are kept in" in shown.err
    assert [path.name for path in out.iterdir()] == [".scores.safetensors"]
    no_token_below(tmp_path, cloud.token)
    assert main([*arguments, "--backend", "tabu"]) == 0
    assert "scores: those of the last run" in capsys.readouterr().err
    resumed = (out / "plan.json").read_text()
    assert ".scores.safetensors" not in [path.name for path in out.iterdir()]
    assert main([*arguments[: -len(FAST) - 1], str(tmp_path / "fresh"), *FAST, "--backend", "tabu"]) == 0
    assert (tmp_path / "fresh" / "plan.json").read_text() == resumed


@pytest.mark.slow
def test_kept_scores_are_of_their_images(
    cloud: Cloud,
    checkpoint: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Ctrl-C during the search keeps the scores; other noise on the same photographs makes other scores."""

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    arguments = ["prune", str(checkpoint), "--data", str(images), "-o", str(tmp_path / "out"), *FAST[:-1]]
    with monkeypatch.context() as patched:
        patched.setattr(choosing, "search", interrupted)
        for noise, resumed in (("gaussian:25", False), ("gaussian:25", True), ("gaussian:50", False)):
            assert main([*arguments, noise]) == 130
            shown = capsys.readouterr().err
            assert "interrupted during the capacity search" in shown
            assert "the scores are kept in" in shown
            assert ("scores: those of the last run" in shown) is resumed


def test_without_a_token_nothing_is_begun(
    checkpoint: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for backend in ("qpu", "clique", "leap", "leap-cqm"):
        assert main(["prune", str(checkpoint), "--data", str(images), "-o", str(tmp_path / "o"), "--backend", backend]) == 5
        shown = capsys.readouterr()
        assert f"backend {backend}: no D-Wave API token" in shown.err
        assert "dwave setup" in shown.err
        assert "scores" not in shown.err
    assert not (tmp_path / "o").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("budget", "asked"),
    [
        ("filters", ["-s", "0.4", "--budget", "filters"]),
        ("macs", ["--target-macs", "3M", "--keep", "enc.0.0.0=1", "--keep-at-most", "dec.*=0.9", "--multiple-of", "*=2"]),
    ],
)
def test_formulate_solve_prune(
    budget: str,
    asked: list[str],
    cloud: Cloud,
    checkpoint: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bqm, selection, out = tmp_path / "p.bqm", tmp_path / "s.json", tmp_path / "out"
    problem = [
        "--data",
        str(images),
        "--noise",
        "gaussian:25",
        "--size",
        "48",
        "--align",
        "1",
        "-q",
        "--objective",
        "hybrid",
        "--coefficient",
        "similarity=0.5",
    ]
    assert main(["formulate", str(checkpoint), "-o", str(bqm), *asked, *problem]) == 0
    assert main(["solve", str(bqm), "-o", str(selection), "--backend", "clique", "--json", "-q"]) == 0
    solved = json.loads(capsys.readouterr().out.split("solve " + str(bqm))[-1])
    assert solved["qpu"]["backend"] == "clique"
    assert main(["prune", str(checkpoint), "--data", str(images), "--selection", str(selection), "-o", str(out), *FAST]) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["search"]["backend"] == "clique"
    assert report["search"]["lower_bound"] == pytest.approx(solved["certificate"]["bound"], rel=1e-6)
    assert "similarity=0.5" in report["search"]["objective"]
    assert json.loads((out / "plan.json").read_text())["objective"] == "hybrid"
    assert report["search"]["qpu"]["submissions"] == solved["qpu"]["submissions"]
    assert report["search"]["budget"] == budget
    assert report["search"]["capacity"] == solved["capacity"] >= solved["asked"]
    pruned = {name: facts["pruned"] for name, facts in report["units"]["per_group"].items()}
    assert pruned == {name: len(group["pruned"]) for name, group in solved["groups"].items()}
    no_token_below(tmp_path, cloud.token)


def test_a_selection_of_another_checkpoint(
    checkpoint: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bqm, selection, other = tmp_path / "p.bqm", tmp_path / "s.json", tmp_path / "other.pt"
    formulate = ["formulate", str(checkpoint), "--data", str(images), "--noise", "gaussian:25", "--size", "48"]
    assert main([*formulate, "-o", str(bqm), "-q"]) == 0
    assert main(["solve", str(bqm), "-o", str(selection), "--backend", "tabu", "-q"]) == 0
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    torch.save(state, other)
    capsys.readouterr()
    assert main(["prune", str(other), "--data", str(images), "--selection", str(selection), *FAST, "-q"]) == 3
    assert "the selection is of net.pt with sha256" in capsys.readouterr().err


def test_wrong_options_are_usage_errors(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option in (["--solver", "x"], ["--max-qpu-seconds", "3"], ["--backend-option", "speed"]):
        assert main(["prune", str(checkpoint), "--backend", "tabu", *option]) == 2
        assert "tabu has no option" in (err := capsys.readouterr().err) or "expected NAME=VALUE" in err
