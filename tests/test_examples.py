"""The examples run, as a reader would run them but for less time, and do what they say."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from pages import blocks

from qcompress import Settings

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


def run(monkeypatch: pytest.MonkeyPatch, script: str, *arguments: str) -> int:
    """Runs an example as if from its folder; its exit code."""
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    monkeypatch.syspath_prepend(str(EXAMPLES))
    try:
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.mark.slow
def test_a_module_is_trained_pruned_and_trained_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "own.slim"
    briefly = ["--width", "8", "--steps", "3", "--evaluations", "0"]
    assert run(monkeypatch, "prune_module.py", *briefly, "--out", str(out)) == 0
    assert "8 of 16 units went" in capsys.readouterr().out
    assert json.loads((out / "plan.json").read_text())["sparsity"] == 0.5


@pytest.mark.slow
def test_the_gate_judges_by_a_metric_of_ones_own_and_says_what_was_missed(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "gate.slim"
    limits = ["--metric", "own_metric:edges", "--max-drop", "100", "--min-speedup", "1000"]
    assert run(monkeypatch, "ci_gate.py", str(checkpoint), *limits, "--sparsities", "0.5", "--out", str(out)) == 4
    assert "sparsity 0.5: " in (said := capsys.readouterr().out)
    assert "1000" in said
    metric = json.loads((out / "report.json").read_text())["metric"]
    assert (metric["name"], metric["unit"]) == ("edges", "dB")


def test_the_gate_takes_the_first_that_meets_the_limits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def prune(checkpoint: str, settings: Settings, *, sparsity: float, out: Path) -> SimpleNamespace:
        return SimpleNamespace(exit_code=4 if sparsity > 0.5 else 0, report=SimpleNamespace(reasons=(), sparsity=sparsity))

    gated = runpy.run_path(str(EXAMPLES / "ci_gate.py"))["gated"]
    monkeypatch.setattr("qcompress.prune", prune)
    assert gated("net.pt", [0.6, 0.5, 0.4], Settings(), tmp_path).report.sparsity == 0.5
    assert gated("net.pt", [0.7, 0.6], Settings(), tmp_path).report.sparsity == 0.6


def test_the_gate_fails_as_the_command_line_does(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "ci_gate.py", "nowhere.pt") == 3
    assert "nowhere.pt" in capsys.readouterr().err


@pytest.mark.slow
def test_the_plugin_is_a_backend_once_it_is_installed(tmp_path: Path) -> None:
    """Installed by pip, from a copy, so that nothing is built in the tree."""
    site = tmp_path / "site"
    source = tmp_path / "source"
    source.mkdir()
    for path in (EXAMPLES / "solver_plugin").glob("*.*"):
        (source / path.name).write_bytes(path.read_bytes())
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--target",
        str(site),
    ]
    subprocess.run([*install, str(source)], check=True, capture_output=True)
    asked = (
        "import dimod; from qcompress.solvers import solver; found = solver('late-acceptance', sweeps=40);"
        "bqm = dimod.BinaryQuadraticModel({'a': -1.0, 'b': -1.0, 'c': 2.0}, {'ab': 3.0}, 0.0, 'BINARY');"
        "one, other = (found(bqm, reads=3, seed=1) for _ in range(2));"
        "assert one == other and len(one) == 3 and one.first.energy == -1.0;"
        "assert len(found(dimod.BinaryQuadraticModel('BINARY'), reads=2, seed=0).variables) == 0"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(site)))}
    subprocess.run([sys.executable, "-c", asked], check=True, env=environment)


def test_the_metric_is_the_one_of_the_page() -> None:
    page = {block.title: block.code for block in blocks(ROOT / "docs" / "own-metric.md")}
    assert (EXAMPLES / "own_metric.py").read_text() == page["own_metric.py"]


def test_the_plugin_is_the_solver_of_the_page() -> None:
    """But for the random numbers: a package of one's own has none of qcompress's modules to keep in step with."""
    page = {block.title: block.code for block in blocks(ROOT / "docs" / "extend" / "solver.md")}
    shown = page["qcompress/solvers/late_acceptance.py"].replace("from qcompress import seeds\n\n", "")
    shown = shown.replace('seeds.stream(seed, f"read {read}")', "np.random.default_rng([seed, read])")
    assert (EXAMPLES / "solver_plugin" / "late_acceptance.py").read_text() == shown
    declared = tomllib.loads((EXAMPLES / "solver_plugin" / "pyproject.toml").read_text())["project"]["entry-points"]
    assert declared == tomllib.loads(page["pyproject.toml"])["project"]["entry-points"]
