"""The gate: whether a result meets what was asked of it. From measured numbers alone, so that a report can be judged again."""

from qcompress.gate.baseline import Tolerances, against_baseline, comparison
from qcompress.gate.folder import Checked, check
from qcompress.gate.limits import Finding, Gate, Measured, Outcome, against_limits

__all__ = [
    "Checked",
    "Finding",
    "Gate",
    "Measured",
    "Outcome",
    "Tolerances",
    "against_baseline",
    "against_limits",
    "check",
    "comparison",
]
