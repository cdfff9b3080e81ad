"""What CI systems are given: the composite action, and the examples in docs/ci.md."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from qcompress.cli.main import app

ROOT = Path(__file__).parent.parent
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
STEPS: list[dict[str, Any]] = ACTION["runs"]["steps"]


def documented(heading: str) -> str:
    """The first indented block under a heading of docs/ci.md."""
    text = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8").partition(f"## {heading}\n")[2]
    found = re.search(r"(?:^    .*\n|^\n)+", text, re.MULTILINE)
    assert found is not None
    return textwrap.dedent(found[0])


def run_step(name: str, folder: Path, code: int = 0, **inputs: str) -> tuple[int, list[str], str]:
    """Runs a step's script with a stand-in for qcompress that ends with `code`: (exit code, its arguments, outputs)."""
    (step,) = [step for step in STEPS if step.get("name") == name]
    stand_in = folder / "qcompress"
    stand_in.write_text(f'#!/bin/sh\nfor word in "$@"; do printf "%s\\n" "$word"; done > "{folder}/words"\nexit {code}\n')
    stand_in.chmod(0o755)
    wanted = {key: inputs.get(key, "") for key in step["env"]}
    github = {"GITHUB_OUTPUT": str(folder / "output"), "GITHUB_STEP_SUMMARY": str(folder / "summary")}
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", **wanted, **github}
    done = subprocess.run(["bash", "-eo", "pipefail", "-c", step["run"]], env=environment, timeout=60, check=False)
    output = folder / "output"
    words = (folder / "words").read_text().splitlines()
    return done.returncode, words, output.read_text() if output.exists() else ""


def test_the_action_has_what_github_requires() -> None:
    assert {"name", "description", "runs"} <= set(ACTION)
    assert ACTION["runs"]["using"] == "composite"
    for step in STEPS:
        assert ("uses" in step) != ("run" in step)
        assert "uses" in step or step["shell"] == "bash"
        assert "${{" not in step.get("run", "")  # an input in a script would be code
    for given in ACTION["inputs"].values():
        assert given["description"]
        assert given.get("required") or isinstance(given["default"], str)
    used = set(re.findall(r"inputs\.([a-z-]+)", (ROOT / "action.yml").read_text(encoding="utf-8")))
    assert used == set(ACTION["inputs"])


def test_every_option_of_the_action_exists() -> None:
    commands: Any = get_command(app)
    for name in ("Prune", "Check"):
        (step,) = [step for step in STEPS if step.get("name") == name]
        known = {option for parameter in commands.commands[name.lower()].params for option in parameter.opts}
        assert set(re.findall(r"(--[a-z-]+) ", step["run"])) - {"--"} <= known


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_scripts_hand_inputs_on_as_they_are(tmp_path: Path) -> None:
    hostile = "a b; touch $(echo x) `y`.pt"
    inputs = {
        "CHECKPOINT": hostile,
        "SPARSITY": "0.5",
        "OUT": "slim",
        "CACHE": ".cache",
        "ARGUMENTS": "--noise 'gaussian:25' -q",
    }
    code, words, _ = run_step("Prune", tmp_path, 0, **inputs)
    assert code == 0
    assert " ".join(words[:-1]) == "prune --out slim --cache .cache --sparsity 0.5 --noise gaussian:25 -q --"
    assert words[-1] == hostile


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(("code", "outcome"), [(0, "passed"), (4, "failed"), (6, "undecided"), (3, None)])
def test_the_outcome_is_an_output(code: int, outcome: str | None, tmp_path: Path) -> None:
    found, words, output = run_step("Check", tmp_path, code, OUT="slim", MAX_SIZE="4MB", UNDECIDED="report", JUNIT="j.xml")
    assert found == code
    assert words[:3] == ["check", "--undecided", "report"]
    assert words[-4:] == ["--max-size", "4MB", "--", "slim"]
    assert output == (f"outcome={outcome}\n" if outcome else "")


def test_the_examples_are_what_they_claim_to_be() -> None:
    workflow = yaml.safe_load(documented("GitHub"))
    (step,) = [step for step in workflow["jobs"]["slim"]["steps"] if "with" in step]
    assert set(step["with"]) <= set(ACTION["inputs"])
    gitlab = yaml.safe_load(documented("GitLab"))["slim"]
    assert gitlab["allow_failure"] == {"exit_codes": 6}
    commands: Any = get_command(app)
    for line in [*gitlab["script"], *documented("Make").splitlines()]:
        found = re.search(r"qcompress (prune|check) (.*)", line)
        if found:
            known = {option for parameter in commands.commands[found[1]].params for option in parameter.opts}
            assert set(re.findall(r"--[a-z-]+", found[2])) <= known
