"""Predicted against true loss: the surrogate's energy and the measured loss of the candidates that the refinement measured."""

from __future__ import annotations

from collections.abc import Iterable

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from qcompress.plots.convergence import quantity
from qcompress.plots.numbers import drawable
from qcompress.plots.style import COLOURS, QUIET, figure, legend, shown, styled
from qcompress.reports import Report

__all__ = ["climb", "surrogate", "trials"]

_LEAST = 3  # points: fewer make no cloud
_VECTORS = 500  # more are put into an SVG as a bitmap
Points = list[tuple[float, float]]


def trials(report: Report) -> Points:
    """(energy, loss) of every candidate less those of the best before it, in the metric's unit; [] where too few are known."""
    steps = [] if report.refine is None else _known(report.refine.steps)
    return [(energy, -gain) for energy, gain in steps] if len(steps) >= _LEAST else []


def climb(report: Report) -> Points:
    """(energy, loss against the start) of candidates measured on every image, the start first; [] where too few are known."""
    known = [] if report.refine is None else _known(report.refine.measured)
    return [(energy, known[0][1] - value) for energy, value in known] if len(known) >= _LEAST else []


def _known(pairs: Iterable[tuple[float | None, float | None]]) -> Points:
    return [(energy, value) for energy, value in pairs if drawable(energy) and drawable(value)]


@styled
def surrogate(report: Report) -> Figure:
    """Every candidate against the best before it, beside those measured on every image; the report has `trials` to show."""
    refine = report.refine
    assert refine is not None
    drawn, (left, right) = figure(3.4, columns=2)
    title, unit = (shown(text, 24) for text in quantity(report))
    ending = f", {unit}" if unit else ""
    steps, path = trials(report), climb(report)
    cloud = _scatter(left, steps, COLOURS[0])
    left.axvline(0, color=QUIET, linewidth=0.8)
    left.set_xlabel("energy, less that of the best before")
    left.set_ylabel(f"{title} lost against the best before{ending}")
    left.set_title(f"{len(steps)} candidates, {_said(refine.step_correlation)}")
    if not path:
        right.remove()
        return drawn
    _scatter(right, path, COLOURS[0])
    start = right.scatter(*path[0], s=70, marker="*", color=COLOURS[1], zorder=3)
    right.set_xlabel("energy")
    right.set_ylabel(f"{title} lost against the start{ending}")
    right.set_title(f"{len(path)} on every image, {_said(refine.rank_correlation)}")
    legend(drawn, [(cloud, "candidate"), (start, "start")])
    return drawn


def _scatter(ax: Axes, points: Points, colour: str) -> Artist:
    energies, measured = zip(*points, strict=True)
    ax.axhline(0, color=QUIET, linewidth=0.8)
    return ax.scatter(energies, measured, s=14, color=colour, alpha=0.55, linewidth=0, rasterized=len(points) > _VECTORS)


def _said(correlation: float | None) -> str:
    return "no rank correlation" if correlation is None else f"rank correlation {correlation:.2f}".replace("-", "−")
