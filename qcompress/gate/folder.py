"""A slim folder or its report.json at the gate: its numbers against limits, its files against their hashes, and a baseline."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qcompress import reports
from qcompress.drops import check_unit
from qcompress.errors import InputError
from qcompress.gate.baseline import Tolerances, against_baseline, comparison, drop_of, interval_of, unit_of
from qcompress.gate.limits import Finding, Gate, Measured, against_limits
from qcompress.markdown import headline
from qcompress.reports import Report
from qcompress.settings import Limits
from qcompress.visible import visible
from qcompress.widths import LEAST_DB

__all__ = ["Checked", "check", "measured"]

_FILE = "report.json"
_CHUNK = 2**20  # bytes


@dataclass(frozen=True)
class Checked:
    """What the gate says of the report at `path`, and how it compares with the baseline, where there is one."""

    path: Path
    report: Report
    gate: Gate
    baseline: Report | None = None

    @property
    def headline(self) -> str:
        """The run in one sentence."""
        return headline(self.report)

    @property
    def rows(self) -> list[tuple[str, str, str]]:
        """(quantity, baseline, now), as text; [] without a baseline."""
        return [] if self.baseline is None else comparison(self.report, self.baseline)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "status": self.gate.outcome,
            "exit_code": self.gate.exit_code,
            "reasons": list(self.gate.reasons),
            "findings": [asdict(finding) for finding in self.gate.findings],
            "report": str(self.path),
            "comparison": [dict(zip(("quantity", "baseline", "now"), row, strict=True)) for row in self.rows],
        }


def check(path: Path, limits: Limits, baseline: Path | None = None, tolerances: Tolerances | None = None) -> Checked:
    """The report at `path`, or of the slim folder there, against `limits` and `baseline`; nothing is measured again.

    Of a folder the files have to be those that the report was written for.

    Raises:
        InputError: no report of schema 1 at one of the paths.
        UsageError: the limit of the drop has a unit that is not the metric's.

    """
    file = _report_file(path)
    report = reports.read(file)
    check_unit(limits.drop_unit, "--max-drop", visible(report.metric.name), unit_of(report))
    findings = [*_soundness(report), *against_limits(limits, measured(report))]
    if path.is_dir():
        findings.append(_files(report, path))
    other = None if baseline is None else reports.read(_report_file(baseline))
    if other is not None:
        findings += against_baseline(report, other, tolerances or Tolerances())
    return Checked(file, report, Gate(tuple(findings), limits.undecided), other)


def measured(report: Report) -> Measured:
    """What the limits are held against, from a report."""
    rounds = report.latency.runs if report.latency else 0
    return Measured(drop_of(report), unit_of(report), interval_of(report), rounds, report.cost.bytes.slim)


def _report_file(path: Path) -> Path:
    if path.is_dir() and not (path / _FILE).is_file():
        raise InputError(
            f"{path}: a folder without a {_FILE}", "give a folder that `qcompress prune` wrote, or its report.json"
        )
    return path / _FILE if path.is_dir() else path


def _soundness(report: Report) -> list[Finding]:
    """What no limit has to ask for: the run was finished, and the artifact computes what the network does."""
    found = []
    if report.status == "interrupted":
        found.append(Finding("finished", "failed", "the run was interrupted: what it has is the best so far"))
    if report.parity is not None:
        passed = report.parity.passed
        said = "the same outputs" if passed else "it differs by more than rounding"
        text = f"the artifact against the network that it was written from: {said}"
        found.append(Finding("parity", "passed" if passed else "failed", text))
    if report.compression is not None and report.compression.simulation_db is not None:
        apart = report.compression.simulation_db
        text = f"integer arithmetic is {apart:.1f} dB from the same file computed literally, {LEAST_DB:g} dB are needed"
        found.append(Finding("parity", "passed" if apart >= LEAST_DB else "failed", text))
    return found


def _files(report: Report, folder: Path) -> Finding:
    """The files beside the report have the hashes that are in it. A name is never a path to somewhere else."""
    for name, facts in report.files.items():
        if Path(name).name != name:
            return Finding("files", "failed", f"the report names a file that is not in its folder: {visible(name)}")
        if _sha256(folder / name) != facts.sha256:
            return Finding("files", "failed", f"{visible(name)} is missing, or not the file that the report was written for")
    return Finding("files", "passed", f"{len(report.files)} files are those that the report was written for")


def _sha256(path: Path) -> str | None:
    if not path.is_file():
        return None
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}", "check its permissions") from error
    return digest.hexdigest()
