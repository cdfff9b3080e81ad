"""The steps of a refinement, as a line can show them."""

from __future__ import annotations

from qcompress.plots.numbers import drawable
from qcompress.reports import Report

__all__ = ["climbed"]


def climbed(report: Report) -> list[tuple[float, float]]:
    """(evaluations spent, best value so far) of the refinement, in the metric's own sign; [] where there is nothing to see."""
    refine = report.refine
    if refine is None:
        return []
    sign = -1.0 if refine.higher_is_better is False else 1.0
    steps = [(spent, sign * value) for spent, value in refine.history if drawable(spent) and drawable(value)]
    if steps and drawable(refine.evaluations) and refine.evaluations > steps[-1][0]:
        steps.append((refine.evaluations, steps[-1][1]))  # nothing better until the end
    return steps if len(steps) > 1 else []
