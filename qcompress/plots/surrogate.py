"""Predicted against true loss: the surrogate's energy and the measured loss of the candidates that the refinement measured."""

from __future__ import annotations

from matplotlib.figure import Figure

from qcompress.plots.convergence import quantity
from qcompress.plots.style import COLOURS, figure, legend, shown, styled
from qcompress.reports import Report

__all__ = ["losses", "surrogate"]

_LEAST = 3  # candidates: fewer make no cloud
_VECTORS = 500  # points; more are put into an SVG as a bitmap


def losses(report: Report) -> list[tuple[float, float]]:
    """(energy, loss against the start in the metric's unit) of each candidate, the start first; [] where too few are known."""
    refine = report.refine
    known = [] if refine is None else [(e, v) for e, v in refine.measured if e is not None and v is not None]
    return [(energy, known[0][1] - value) for energy, value in known] if len(known) >= _LEAST else []


@styled
def surrogate(report: Report) -> Figure:
    """Candidates as points, with the rank correlation of the report. The report has losses to show (see `losses`)."""
    points = losses(report)
    drawn, (ax,) = figure(3.6)
    energies, measured = zip(*points[1:], strict=True)
    title, unit = quantity(report)
    ax.axhline(0, color="#bbbbbb", linewidth=0.8)
    cloud = ax.scatter(energies, measured, s=16, color=COLOURS[0], alpha=0.6, linewidth=0, rasterized=len(points) > _VECTORS)
    start = ax.scatter(*points[0], s=70, marker="*", color=COLOURS[1], zorder=3)
    ax.set_xlabel("energy of the surrogate (predicted loss)")
    ax.set_ylabel(f"loss of {shown(title)} against the start" + (f", {shown(unit)}" if unit else ""))
    legend(drawn, [(cloud, f"{len(points) - 1} candidates"), (start, "start")])
    correlation = None if report.refine is None else report.refine.rank_correlation
    said = "not defined" if correlation is None else f"{correlation:.2f}".replace("-", "−")
    ax.set_title(f"Spearman's rank correlation {said}", loc="right")
    return drawn
