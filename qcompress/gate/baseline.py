"""A report against the report of another state, mostly that of the main branch: what became worse, and by how much."""

from __future__ import annotations

import math
from dataclasses import dataclass

from qcompress.errors import InputError, UsageError
from qcompress.gate.limits import LEAST_ROUNDS, Finding, at_least
from qcompress.markdown import metric_title, summary_rows
from qcompress.reports import Report

__all__ = ["Tolerances", "against_baseline", "comparison", "drop_of", "interval_of", "unit_of"]

_METRIC = {"dB": 0.05, "%": 0.1}
_OTHER_METRIC = 0.001  # SSIM and its like
_OURS = ("psnr", "psnr-y", "ssim", "top1", "miou")  # of which higher is better, in reports that do not say


@dataclass(frozen=True)
class Tolerances:
    """How much worse than the baseline a report may be.

    metric  in the metric's unit; None: 0.05 dB, 0.1 points, 0.001 of others
    size    per cent of bytes
    speed   per cent of the speedup
    """

    metric: float | None = None
    size: float = 1.0
    speed: float = 5.0

    def __post_init__(self) -> None:
        for name in ("metric", "size", "speed"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise UsageError(f"the tolerance of the {name} must be 0 or more, got {value}")


def against_baseline(report: Report, baseline: Report, tolerances: Tolerances) -> tuple[Finding, ...]:
    """Metric, size and speedup; undecided where the two reports do not measure the same thing, or not well enough."""
    return _metric(report, baseline, tolerances), _size(report, baseline, tolerances), _speed(report, baseline, tolerances)


def comparison(report: Report, baseline: Report) -> list[tuple[str, str, str]]:
    """(quantity, slim of the baseline, slim now) of every quantity that one of the two has, as text."""
    before, now = ({row[0]: row for row in summary_rows(one)} for one in (baseline, report))
    names = dict.fromkeys((*now, *before))
    return [(name, _slim(before.get(name)), _slim(now.get(name))) for name in names]


def higher_is_better(report: Report) -> bool:
    """Of the report's metric. Raises InputError where an older report of a metric of the user's own does not say."""
    metric = report.metric
    if metric.higher_is_better is not None:
        return metric.higher_is_better
    if metric.name in _OURS:
        return True
    raise InputError(f"the report does not say whether more of {metric.name} is better", "make it again")


def drop_of(report: Report) -> float | None:
    """How much worse the artifact's metric is than the dense network's; None where one was not measured, or is infinite."""
    before, after = report.metric.dense, report.metric.artifact
    if before is None or after is None:
        return None
    return before - after if higher_is_better(report) else after - before


def unit_of(report: Report) -> str:
    """What differences of the report's metric are in."""
    return "points" if report.metric.unit == "%" else report.metric.unit


def interval_of(report: Report) -> tuple[float, float, float] | None:
    """The speedup and the ends of its interval; None where it was not measured."""
    if report.latency is None:
        return None
    median, (low, high) = report.latency.speedup, report.latency.ci95
    return None if median is None or low is None or high is None else (median, low, high)


def _slim(row: tuple[str, str, str, str] | None) -> str:
    if row is None:
        return "-"
    return f"{row[2]} ({row[3]})" if row[0] == "latency" else row[2]


def _metric(report: Report, baseline: Report, tolerances: Tolerances) -> Finding:
    name, ours, theirs = "metric against baseline", report.metric, baseline.metric
    title = metric_title(ours.name, ours.unit)
    if ours.name != theirs.name or report.data.report.sha256 != baseline.data.report.sha256:
        what = f"it has {theirs.name}" if ours.name != theirs.name else "it was measured on other images"
        return Finding(name, "undecided", f"{title} cannot be compared with the baseline: {what}")
    if ours.artifact is None or theirs.artifact is None:
        return Finding(name, "undecided", f"{title} cannot be compared with the baseline: it was not measured in both")
    allowed = tolerances.metric if tolerances.metric is not None else _METRIC.get(ours.unit, _OTHER_METRIC)
    loss = theirs.artifact - ours.artifact if higher_is_better(report) else ours.artifact - theirs.artifact
    unit = f" {unit_of(report)}" if ours.unit else ""
    passed = loss <= allowed
    change = f"{abs(loss):.3f}{unit} {'worse' if loss > 0 else 'better'} than" if loss else "that of"
    said = f"{title} is {change} the baseline, {allowed:g}{unit} worse {'is' if passed else 'was'} allowed"
    return Finding(name, "passed" if passed else "failed", said)


def _size(report: Report, baseline: Report, tolerances: Tolerances) -> Finding:
    name, ours, theirs = "size against baseline", report.cost.bytes.slim, baseline.cost.bytes.slim
    if ours is None or not theirs:
        return Finding(name, "undecided", "the size cannot be compared with the baseline: it was not measured in both")
    growth = 100 * (ours - theirs) / theirs
    passed = growth <= tolerances.size
    allowed = f"{tolerances.size:g} % more {'is' if passed else 'was'} allowed"
    said = f"{ours:,} bytes, {theirs:,} in the baseline: {growth:+.1f} %, {allowed}"
    return Finding(name, "passed" if passed else "failed", said)


def _speed(report: Report, baseline: Report, tolerances: Tolerances) -> Finding:
    name, ours, theirs = "speedup against baseline", interval_of(report), interval_of(baseline)
    if ours is None or theirs is None or report.latency is None or baseline.latency is None:
        return Finding(name, "undecided", "the speedup cannot be compared with the baseline: it was not measured in both")
    setting, other = ((one.input_shape, one.threads) for one in (report.latency, baseline.latency))
    if setting != other:
        return Finding(name, "undecided", "the speedup cannot be compared with the baseline: other input, or threads")
    share = ours[1] / max(theirs[2], 1e-9), ours[2] / max(theirs[1], 1e-9)
    rounds = min(report.latency.runs, baseline.latency.runs)
    outcome = at_least(share, 1 - tolerances.speed / 100) if rounds >= LEAST_ROUNDS else "undecided"
    said = (
        f"the speedup is {ours[0] / max(theirs[0], 1e-9):.2f} [{share[0]:.2f}, {share[1]:.2f}] times the baseline's, "
        f"{1 - tolerances.speed / 100:g} is needed"
    )
    return Finding(name, outcome, said + (": undecided, the interval contains it" if outcome == "undecided" else ""))
