"""The gate: limits, intervals that decide nothing, a baseline, and what CI systems read of it."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_reports import example

from qcompress.cli.main import main
from qcompress.gate import Checked, Gate, Measured, Tolerances, against_baseline, against_limits, check
from qcompress.gate.limits import at_least
from qcompress.gate.writing import junit, summary
from qcompress.reports import Report, to_json
from qcompress.settings import Limits

HOSTILE = "a|b<script>alert(1)</script>\x1b[31m\u202e`x`\n# y.pt"


def changed(report: Report, **parts: dict[str, Any]) -> Report:
    """`report` with some fields of its parts changed."""
    facts = json.loads(to_json(report))
    for name, fields in parts.items():
        facts[name] = facts[name] | fields
    return Report.model_validate(facts)


def outcomes(limits: Limits, **facts: Any) -> list[str]:
    measured = replace(Measured(0.1, "dB", (1.5, 1.4, 1.6), 20, 1000), **facts)
    return [finding.outcome for finding in against_limits(limits, measured)]


@given(st.floats(0.1, 10), st.floats(0, 5), st.floats(0.1, 10))
def test_only_a_whole_interval_decides(low: float, width: float, limit: float) -> None:
    outcome = at_least((low, low + width), limit)
    assert (outcome == "passed") == (limit <= low)
    assert (outcome == "failed") == (limit > low + width)


def test_limits() -> None:
    limits = Limits(max_drop=0.2, min_speedup=1.5, max_size=1000)
    assert outcomes(limits) == ["passed", "undecided", "passed"]
    assert outcomes(limits, drop=0.3, speedup=(1.3, 1.2, 1.4), size_bytes=1001) == ["failed"] * 3
    assert outcomes(limits, speedup=(2.0, 1.9, 2.1), rounds=5)[1] == "undecided"  # too few rounds to say anything
    assert outcomes(limits, drop=None, speedup=None, size_bytes=None) == ["failed"] * 3  # nothing passes unseen
    assert outcomes(limits, drop=float("nan"))[0] == "failed"
    assert outcomes(Limits()) == []


@pytest.mark.parametrize(
    ("policy", "outcome", "code"), [("report", "undecided", 6), ("fail", "failed", 4), ("pass", "passed", 0)]
)
def test_what_undecided_counts_as(policy: Any, outcome: str, code: int) -> None:
    measured = Measured(0.1, "dB", (1.5, 1.4, 1.6), 20, 1000)
    gate = Gate(against_limits(Limits(min_speedup=1.5), measured), policy)
    assert (gate.outcome, gate.exit_code) == (outcome, code)
    assert bool(gate.reasons) == (policy != "pass") != bool(gate.waved)
    failing = Gate(against_limits(Limits(min_speedup=1.5, max_size=1), measured), policy)
    assert failing.exit_code == 4


def test_a_baseline() -> None:
    baseline = changed(example(), metric={"artifact": 30.94})
    worse = changed(
        baseline,
        metric={"artifact": 30.8},
        cost={"bytes": {"dense": 840_000, "slim": 240_000}},
        latency={"speedup": 1.5, "ci95": [1.48, 1.52]},
    )
    noisy = changed(baseline, latency={"ci95": [1.5, 2.1]})
    other = changed(baseline, data={"report": {"images": 2, "sha256": "99" * 32}}, latency={"threads": 2})

    def found(report: Report, **tolerances: Any) -> list[str]:
        return [finding.outcome for finding in against_baseline(report, baseline, Tolerances(**tolerances))]

    assert found(baseline) == ["passed", "passed", "passed"]
    assert found(worse) == ["failed", "failed", "failed"]
    assert found(worse, metric=0.2, size=5, speed=30) == ["passed", "passed", "passed"]
    assert found(noisy) == ["passed", "passed", "undecided"]
    assert found(other) == ["undecided", "passed", "undecided"]


def test_lower_is_better_and_older_reports() -> None:
    baseline = changed(
        example(), metric={"name": "lpips", "unit": "", "higher_is_better": False, "artifact": 0.2, "dense": 0.1}
    )
    report = changed(baseline, metric={"artifact": 0.25})
    assert against_baseline(report, baseline, Tolerances())[0].outcome == "failed"
    assert against_baseline(baseline, report, Tolerances())[0].outcome == "passed"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A slim folder whose report tells of one file."""
    path = tmp_path / "net.slim"
    path.mkdir()
    (path / "model.onnx").write_bytes(b"onnx")
    files = {"model.onnx": {"sha256": sha256(b"onnx").hexdigest(), "bytes": 4}}
    (path / "report.json").write_text(to_json(changed(example(files=files), metric={"artifact": 30.94})), encoding="utf-8")
    return path


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limits = ["--max-drop", "0.4", "--min-speedup", "1.5", "--max-size", "230kB"]
    assert main(["check", str(folder), *limits, "--baseline", str(folder / "report.json")]) == 0
    assert capsys.readouterr().out.startswith("passed: ")
    assert main(["check", str(folder), "--max-size", "229999", "--json"]) == 4
    shown = json.loads(capsys.readouterr().out)
    assert shown["status"] == "failed"
    assert shown["reasons"] == ["230,000 bytes are above the limit of 229,999"]
    assert main(["check", str(folder), "--min-speedup", "1.8"]) == 6
    assert main(["check", str(folder), "--min-speedup", "1.8", "--undecided", "fail"]) == 4
    assert main(["check", str(folder), "--max-size", "large"]) == 2
    assert main(["check", str(tmp_path)]) == 3


def test_a_compression_is_judged_by_its_file(folder: Path, tmp_path: Path) -> None:
    """The float32 network beside it has another quality; integer arithmetic is part of the file."""

    def judged(decibels: float | None) -> Checked:
        layers = [{"layer": "a", "width": "int8", "bytes": 9, "loss": 0.1}, {"layer": "b", "width": "int4", "bytes": 5}]
        joint = {"size": 90, "bits": ["int8", "int4"], "layers": layers, "simulation_db": decibels, "int8": "fast"}
        report = changed(
            example(compression=joint), metric={"slim": 31.2, "artifact": 30.5}, cost={"bytes": {"dense": 900, "slim": 90}}
        )
        path = tmp_path / "report.json"
        path.write_text(to_json(report.model_copy(update={"parity": None})), encoding="utf-8")
        return check(path, Limits(max_drop=0.7, max_size=90), folder)

    outcomes = {finding.name: finding.outcome for finding in judged(51.0).gate.findings}
    assert outcomes == {
        "parity": "passed",
        "metric drop": "failed",
        "size": "passed",
        "metric against baseline": "failed",
        "size against baseline": "passed",
        "speedup against baseline": "passed",
    }
    assert ("widths of layers", "-", "1 int8, 1 int4") in judged(51.0).rows
    assert "widths of layers chosen (1 int8, 1 int4)" in judged(51.0).headline
    assert judged(39.0).gate.findings[0].outcome == "failed"
    assert "parity" not in {finding.name for finding in judged(None).gate.findings}  # no layer computes in integers


def test_another_file_under_the_name_fails(folder: Path) -> None:
    assert check(folder, Limits()).gate.outcome == "passed"
    (folder / "model.onnx").write_bytes(b"else")
    assert "not the file" in check(folder, Limits()).gate.reasons[0]
    assert check(folder / "report.json", Limits()).gate.outcome == "passed"  # the report alone says nothing of files
    report = changed(example(files={"../net.slim/model.onnx": {"sha256": "00" * 32, "bytes": 1}}))
    (folder / "report.json").write_text(to_json(report), encoding="utf-8")
    assert "not in its folder" in check(folder, Limits()).gate.reasons[0]


def test_an_interrupted_run_does_not_pass(folder: Path) -> None:
    (folder / "report.json").write_text(to_json(example(status="interrupted")), encoding="utf-8")
    assert "interrupted" in check(folder / "report.json", Limits()).gate.reasons[0]


def test_what_ci_systems_read(folder: Path, tmp_path: Path) -> None:
    report = changed(example(), checkpoint={"file": HOSTILE})
    (folder / "report.json").write_text(to_json(report), encoding="utf-8")
    checked = check(folder / "report.json", Limits(min_speedup=1.8, max_size=1), folder / "report.json")
    text = summary(checked)
    assert "<script>" not in text
    assert "\x1b" not in text
    assert "❔ | speedup" in text
    cells = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.replace(r"\|", "").count("|") for line in cells} == {4}
    suite = ET.fromstring(junit(checked))
    found = {case.get("name"): [child.tag for child in case] for case in suite}
    assert found["speedup"] == ["skipped"]
    assert found["size"] == ["failure"]
    assert (suite.get("failures"), suite.get("skipped")) == ("1", "1")
    into = tmp_path / "summary.md"
    into.write_text("before\n", encoding="utf-8")
    assert main(["check", str(folder / "report.json"), "--summary", str(into), "--junit", str(tmp_path / "j.xml")]) == 0
    assert into.read_text(encoding="utf-8").startswith("before\n### ✅ qcompress")
    assert ET.parse(tmp_path / "j.xml").getroot().get("failures") == "0"
