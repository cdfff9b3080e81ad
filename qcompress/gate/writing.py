"""What the gate says, for CI systems: Markdown for a job's summary, JUnit XML for its test report."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

from qcompress.files import output_error, write_bytes
from qcompress.gate.folder import Checked
from qcompress.gate.limits import Finding, Outcome
from qcompress.markdown_text import escape
from qcompress.visible import visible

__all__ = ["add_summary", "junit", "summary", "write_junit"]

_SIGNS: dict[Outcome, str] = {"passed": "✅", "failed": "❌", "undecided": "❔"}


def summary(checked: Checked) -> str:
    """Markdown: the outcome, every finding, and the comparison with the baseline."""
    gate = checked.gate
    lines = [f"### {_SIGNS[gate.outcome]} qcompress: {gate.outcome}", "", f"{escape(checked.headline)}.", ""]
    lines += ["| | condition | |", "| --- | --- | --- |"]
    lines += [f"| {_SIGNS[found.outcome]} | {escape(found.name)} | {escape(found.text)} |" for found in gate.findings]
    if gate.waved:
        lines += ["", "What is undecided passes, as asked (`--undecided pass`)."]
    if checked.rows:
        lines += ["", "| | baseline | now |", "| --- | ---: | ---: |"]
        lines += [f"| {' | '.join(map(escape, row))} |" for row in checked.rows]
    return "\n".join(lines) + "\n\n"


def add_summary(checked: Checked, path: Path) -> None:
    """Adds the Markdown to the end of the file at `path`: a job's summary is made of many steps. Raises OutputError."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(summary(checked))
    except OSError as error:
        raise output_error(path, error) from error


def junit(checked: Checked) -> bytes:
    """JUnit XML: a test case for every finding; what is undecided is skipped, or a failure where it counts as one."""
    gate = checked.gate
    counted = [(_as_counted(finding, gate.undecided == "fail"), finding) for finding in gate.findings]
    suite = ET.Element(
        "testsuite",
        name="qcompress",
        tests=str(len(counted)),
        failures=str(sum(outcome == "failed" for outcome, _ in counted)),
        errors="0",
        skipped=str(sum(outcome == "undecided" for outcome, _ in counted)),
    )
    for outcome, finding in counted:
        case = ET.SubElement(suite, "testcase", classname="qcompress.check", name=visible(finding.name))
        if outcome != "passed":
            ET.SubElement(case, "failure" if outcome == "failed" else "skipped", message=visible(finding.text))
        else:
            ET.SubElement(case, "system-out").text = visible(finding.text)
    ET.indent(suite)
    data: bytes = ET.tostring(suite, encoding="utf-8", xml_declaration=True)
    return data + b"\n"


def write_junit(checked: Checked, path: Path) -> None:
    """Writes it whole or not at all. Raises OutputError."""
    write_bytes(path, junit(checked))


def _as_counted(finding: Finding, undecided_fails: bool) -> Outcome:
    return "failed" if finding.outcome == "undecided" and undecided_fails else finding.outcome
