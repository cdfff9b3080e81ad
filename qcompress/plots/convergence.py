"""How the refinement climbed: the best value against the evaluations spent, one line a report."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from qcompress.markdown import metric_title
from qcompress.plots.climbing import climbed
from qcompress.plots.naming import labels, removed_share
from qcompress.plots.style import COLOURS, MARKERS, figure, legend, shown, styled
from qcompress.reports import RefineFacts, Report

__all__ = ["climbed", "convergence", "quantity"]

_PANEL_IN = 3.0
_DASHES = ("-", "--", ":", "-.")


def quantity(report: Report) -> tuple[str, str]:
    """Title and unit of what the refinement climbed on; an older report has only the metric that it reports."""
    refine: RefineFacts | None = report.refine
    if refine is None or refine.metric is None:
        return metric_title(report.metric.name, report.metric.unit), report.metric.unit
    return metric_title(refine.metric, refine.unit), refine.unit


@styled
def convergence(reports: Sequence[Report]) -> Figure:
    """A panel for every file, share removed and quantity climbed on. Reports that differ in their seed only have one colour.

    At least one of the reports has something to show (see `climbed`).
    """
    runs = [report for report in reports if climbed(report)]
    kinds = labels(runs, without=("file", "removed", "seed"))
    colour = {kind: number for number, kind in enumerate(dict.fromkeys(kinds))}
    panels = list(dict.fromkeys(map(_panel, runs)))
    columns = min(2, len(panels))
    drawn, axes = figure(_PANEL_IN * math.ceil(len(panels) / columns) + 0.2, math.ceil(len(panels) / columns), columns)
    entries: list[tuple[Artist, str]] = []
    for report, kind in zip(runs, kinds, strict=True):
        ax = axes[panels.index(_panel(report))]
        entries.append((_line(ax, report, colour[kind], alone=len(runs) == 1), shown(kind, 60)))
    for ax, (file, removed, title, unit) in zip(axes, panels, strict=False):
        ax.set_ylabel(f"best {shown(title, 24)} so far" + (f", {shown(unit, 12)}" if unit else ""))
        ax.set_xlabel("evaluations spent, each on all selection images" if columns == 1 else "evaluations spent")
        ax.set_xlim(left=0)
        if len(panels) > 1:
            ax.set_title(f"{shown(file, 30)}, {removed} removed")
    for ax in axes[len(panels) :]:
        ax.remove()
    if len(colour) > 1:
        legend(drawn, entries)
    return drawn


def _panel(report: Report) -> tuple[str, str, str, str]:
    return report.checkpoint.file, f"{100 * removed_share(report):.3g} %", *quantity(report)


def _line(ax: Axes, report: Report, number: int, *, alone: bool) -> Artist:
    spent, best = zip(*climbed(report), strict=True)
    colour = COLOURS[number % len(COLOURS)]
    (line,) = ax.step(spent, best, where="post", color=colour, linestyle=_DASHES[number // len(COLOURS) % len(_DASHES)])
    marker = MARKERS[number % len(MARKERS)]
    changes = [k for k in range(len(best)) if k == 0 or best[k] != best[k - 1]]
    places = changes if alone else [len(spent) - 1]
    ax.plot([spent[k] for k in places], [best[k] for k in places], marker, color=colour)
    return line
