"""A limit against a measurement: passed, failed, or undecided.

A speedup is known as a confidence interval of its median only. It passes where the whole interval meets the limit, fails where
the whole interval misses it, and is undecided where the limit lies inside: a noisy machine neither passes nor fails by luck.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from qcompress.settings import Limits, Undecided

__all__ = ["LEAST_ROUNDS", "Finding", "Gate", "Measured", "Outcome", "against_limits", "at_least"]

Outcome = Literal["passed", "failed", "undecided"]
_EXIT: dict[Outcome, int] = {"passed": 0, "failed": 4, "undecided": 6}

LEAST_ROUNDS = 6
"""With fewer rounds even their whole range is no 95 % interval of the median (`qcompress.latency`): nothing is decided."""


@dataclass(frozen=True)
class Finding:
    """One thing that was asked, what became of it, and the sentence for people. `name` is short and stable."""

    name: str
    outcome: Outcome
    text: str


@dataclass(frozen=True)
class Gate:
    """All findings; `undecided` says what those that are undecided count as."""

    findings: tuple[Finding, ...]
    undecided: Undecided = "report"

    @property
    def outcome(self) -> Outcome:
        """Failed where one finding is, else undecided where one is and that is not to pass or fail, else passed."""
        found = {finding.outcome for finding in self.findings}
        if "failed" in found or ("undecided" in found and self.undecided == "fail"):
            return "failed"
        return "undecided" if "undecided" in found and self.undecided == "report" else "passed"

    @property
    def exit_code(self) -> int:
        """0 passed, 4 failed, 6 undecided."""
        return _EXIT[self.outcome]

    @property
    def reasons(self) -> tuple[str, ...]:
        """The sentences that say why it did not pass."""
        counted = {"failed"} if self.undecided == "pass" else {"failed", "undecided"}
        return tuple(finding.text for finding in self.findings if finding.outcome in counted)

    @property
    def waved(self) -> tuple[str, ...]:
        """The sentences of what is undecided and passes because that was asked for."""
        undecided = (finding.text for finding in self.findings if finding.outcome == "undecided")
        return tuple(undecided) if self.undecided == "pass" else ()


@dataclass(frozen=True)
class Measured:
    """What limits are held against; None where it was not measured.

    drop        how much worse the artifact is than the dense network, in `unit`; negative where it is better
    speedup     dense time over slim time: the median of its `rounds` and the ends of its interval
    size_bytes  of the artifact
    """

    drop: float | None
    unit: str
    speedup: tuple[float, float, float] | None
    rounds: int
    size_bytes: int | None


def against_limits(limits: Limits, measured: Measured) -> tuple[Finding, ...]:
    """A finding for every limit that is set. What was not measured fails: a limit must not pass unseen."""
    findings = []
    if limits.max_drop is not None:
        findings.append(_drop(limits.max_drop, measured))
    if limits.min_speedup is not None:
        findings.append(_speedup(limits.min_speedup, measured))
    if limits.max_size is not None:
        findings.append(_size(limits.max_size, measured))
    return tuple(findings)


def at_least(interval: tuple[float, float], limit: float) -> Outcome:
    """Whether a value known as an interval reaches the limit.

    >>> at_least((1.5, 1.6), 1.5), at_least((1.3, 1.4), 1.5), at_least((1.4, 1.6), 1.5)
    ('passed', 'failed', 'undecided')
    """
    low, high = interval
    return "passed" if low >= limit else "failed" if high < limit else "undecided"


def _drop(limit: float, measured: Measured) -> Finding:
    unit = f" {measured.unit}" if measured.unit else ""
    if measured.drop is None or math.isnan(measured.drop):
        return Finding("metric drop", "failed", f"the drop was not measured, it must be at most {limit:g}{unit}")
    passed = measured.drop <= limit
    said = f"the drop of {measured.drop:.3f}{unit} is {'within' if passed else 'above'} the limit of {limit:g}{unit}"
    return Finding("metric drop", "passed" if passed else "failed", said)


def _speedup(limit: float, measured: Measured) -> Finding:
    if measured.speedup is None:
        return Finding("speedup", "failed", f"the speedup was not measured, it must be at least {limit:g}")
    median, low, high = measured.speedup
    outcome = at_least((low, high), limit) if measured.rounds >= LEAST_ROUNDS else "undecided"
    said = {
        "passed": f"reaches the limit of {limit:g}",
        "failed": f"is below the limit of {limit:g}",
        "undecided": f"is undecided at the limit of {limit:g}: {_why_undecided(measured.rounds)}",
    }
    return Finding("speedup", outcome, f"the speedup of {median:.2f} [{low:.2f}, {high:.2f}] {said[outcome]}")


def _why_undecided(rounds: int) -> str:
    if rounds < LEAST_ROUNDS:
        return f"{rounds} rounds are too few for an interval"
    return "the interval contains it; a quieter machine may decide"


def _size(limit: int, measured: Measured) -> Finding:
    if measured.size_bytes is None:
        return Finding("size", "failed", f"the size was not measured, it must be at most {limit:,} bytes")
    passed = measured.size_bytes <= limit
    said = f"{measured.size_bytes:,} bytes are {'within' if passed else 'above'} the limit of {limit:,}"
    return Finding("size", "passed" if passed else "failed", said)
