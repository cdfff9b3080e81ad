"""A composite action as GitHub's runner executes it, as far as it can be had without GitHub: expressions, files, steps.

Steps that use another action are not run: what they would be given is noted. Expressions know the contexts, functions and
operators that occur; GitHub makes an unknown name an empty text, here it is an error.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_TOKENS = re.compile(r"\s*('(?:[^']|'')*'|==|!=|&&|\|\||[()!]|[A-Za-z_][\w-]*(?:\.[A-Za-z_][\w-]*)*)")
_STATUS = re.compile(r"\b(always|success|failure|cancelled)\s*\(")


@dataclass
class Expression:
    """A recursive descent over `text`: or, and, equality, not, a value."""

    text: str
    names: Mapping[str, object]
    failed: bool
    left: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.left, place = [], 0
        text = self.text.strip()
        while place < len(text):
            found = _TOKENS.match(text, place)
            assert found is not None, f"{text[place:]!r} is no expression that is known here"
            self.left.append(found[1])
            place = found.end()

    def value(self) -> object:
        value = self._either()
        assert not self.left, f"{self.left} is left of {self.text!r}"
        return value

    def _either(self) -> object:
        value = self._both()
        while self._take("||"):
            other = self._both()
            value = value or other
        return value

    def _both(self) -> object:
        value = self._equal()
        while self._take("&&"):
            other = self._equal()
            value = value and other
        return value

    def _equal(self) -> object:
        value = self._single()
        if self._take("=="):
            return value == self._single()
        return value != self._single() if self._take("!=") else value

    def _single(self) -> object:
        if self._take("!"):
            return not self._single()
        if self._take("("):
            value = self._either()
            assert self._take(")"), self.text
            return value
        word = self.left.pop(0)
        if word.startswith("'"):
            return word[1:-1].replace("''", "'")
        if self._take("("):
            assert self._take(")"), self.text
            return {"always": True, "success": not self.failed, "failure": self.failed}[word]
        return self.names[word]

    def _take(self, word: str) -> bool:
        if self.left[:1] != [word]:
            return False
        del self.left[0]
        return True


@dataclass
class Ran:
    """What became of a run: the outcome of each step by its id or name, what others were given, and what is left behind."""

    steps: dict[str, str] = field(default_factory=dict)
    used: dict[str, dict[str, str]] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    summary: str = ""
    log: str = ""
    code: int = 0


@dataclass
class Runner:
    """Executes `action` in `workspace` with `path` in front of PATH; `files` is a folder for the runner's own files."""

    action: Mapping[str, Any]
    home: Path
    workspace: Path
    files: Path
    path: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def run(self, **given: str) -> Ran:
        """`given` are inputs, with _ for -."""
        inputs = {name: str(known.get("default", "")) for name, known in self.action["inputs"].items()}
        told = {name.replace("_", "-"): value for name, value in given.items()}
        assert set(told) <= set(inputs)
        assert {name for name, known in self.action["inputs"].items() if known.get("required")} <= set(told)
        names: dict[str, object] = {f"inputs.{name}": value for name, value in (inputs | told).items()}
        names |= {"runner.os": "Linux", "github.run_id": "17", "github.run_attempt": "1"}
        ran = Ran()
        for number, step in enumerate(self.action["runs"]["steps"]):
            self._step(step, str(number), names, ran)
        wanted = {name: known["value"] for name, known in self.action["outputs"].items()}
        reached = dict.fromkeys(re.findall(r"steps\.[\w-]+\.outputs\.[\w-]+", " ".join(wanted.values())), "") | names
        ran.outputs = {name: filled(value, reached, failed=bool(ran.code)) for name, value in wanted.items()}
        return ran

    def _step(self, step: Mapping[str, Any], number: str, names: dict[str, object], ran: Ran) -> None:
        name = step.get("id") or step.get("name") or step["uses"].partition("@")[0]
        condition = re.sub(r"^\$\{\{(.*)\}\}$", r"\1", str(step.get("if", "success()")).strip())
        if not _STATUS.search(condition):
            condition = f"success() && ({condition})"
        wanted = Expression(condition, names, bool(ran.code)).value()
        outcome = "skipped"
        if wanted and "uses" in step:
            ran.used[name] = {
                key: filled(str(text), names, failed=bool(ran.code)) for key, text in step.get("with", {}).items()
            }
            outcome = "success"
        elif wanted:
            code = self._script(step, number, names, ran)
            outcome = "failure" if code else "success"
            ran.code = ran.code or code
        ran.steps[name] = outcome
        names[f"steps.{name}.outcome"] = outcome

    def _script(self, step: Mapping[str, Any], number: str, names: dict[str, object], ran: Ran) -> int:
        places = {
            name: self.files / f"{name.lower()}{number}" for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY", "GITHUB_ENV")
        }
        for place in places.values():
            place.touch()
        script = self.files / f"step{number}.sh"
        script.write_text(filled(step["run"], names, failed=bool(ran.code)), encoding="utf-8")
        own = {key: filled(str(text), names, failed=bool(ran.code)) for key, text in step.get("env", {}).items()}
        outer = {key: value for key, value in os.environ.items() if not key.startswith("GITHUB_")}
        here = {"PATH": f"{self.path}{os.pathsep}{os.environ['PATH']}", "GITHUB_ACTION_PATH": str(self.home)}
        paths = {name: str(place) for name, place in places.items()}
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],  # as GitHub runs `shell: bash`
            env=outer | here | {"GITHUB_WORKSPACE": str(self.workspace)} | dict(self.environment) | paths | own,
            cwd=self.workspace,
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
        )
        ran.log += done.stdout + done.stderr
        ran.summary += places["GITHUB_STEP_SUMMARY"].read_text(encoding="utf-8")
        for line in places["GITHUB_OUTPUT"].read_text(encoding="utf-8").splitlines():
            key, is_one, value = line.partition("=")
            assert is_one, f"{line!r} is no output"
            names[f"steps.{step['id']}.outputs.{key}"] = value
        return done.returncode


def filled(text: str, names: Mapping[str, object], *, failed: bool) -> str:
    """`text` with every ${{ expression }} in it replaced by its value."""

    def value(found: re.Match[str]) -> str:
        return str(Expression(found[1], names, failed).value())

    return re.sub(r"\$\{\{(.*?)\}\}", value, text)
