"""Quality against cost of one network at several sizes: the Pareto front as a line, what is not on it hollow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.artist import Artist
from matplotlib.figure import Figure

from qcompress.plots.numbers import drawable
from qcompress.plots.style import COLOURS, QUIET, figure, legend, shown, styled

__all__ = ["Dot", "front"]

_HEIGHT_IN = 3.4


@dataclass(frozen=True)
class Dot:
    """A network: its cost, its metric on the report images (nan where not known), what to write beside it."""

    cost: float
    quality: float
    label: str
    on_front: bool
    picked: bool = False


@styled
def front(dots: Sequence[Dot], dense: Dot | None, x: str, y: str) -> Figure:
    """The figure; `x` and `y` name the axes. What cannot be drawn is left out."""
    drawn, (ax,) = figure(_HEIGHT_IN)
    entries: list[tuple[Artist, str]] = []
    known = sorted((dot for dot in dots if drawable(dot.cost) and drawable(dot.quality)), key=lambda dot: dot.cost)
    best, others = [dot for dot in known if dot.on_front], [dot for dot in known if not dot.on_front]
    if dense is not None and drawable(dense.cost) and drawable(dense.quality):
        (mark,) = ax.plot([dense.cost], [dense.quality], marker="D", color=QUIET, linestyle="none")
        entries.append((mark, dense.label))
        if dense.on_front:
            best = sorted([*best, dense], key=lambda dot: dot.cost)
    if best:
        costs, qualities = [dot.cost for dot in best], [dot.quality for dot in best]
        (line,) = ax.plot(costs, qualities, color=COLOURS[0], zorder=1)
        entries.append((line, "front"))
    for chosen, filled in ((known, False), ([dot for dot in known if dot.on_front], True)):
        face = COLOURS[0] if filled else "white"
        ax.plot(
            [dot.cost for dot in chosen],
            [dot.quality for dot in chosen],
            marker="o",
            linestyle="none",
            color=COLOURS[0],
            markerfacecolor=face,
        )
    if others:
        (hollow,) = ax.plot([], [], marker="o", linestyle="none", color=COLOURS[0], markerfacecolor="white")
        entries.append((hollow, "dominated"))
    for dot in known:
        ax.annotate(shown(dot.label), (dot.cost, dot.quality), xytext=(5, -11), textcoords="offset points", fontsize=8)
        if dot.picked:
            (ring,) = ax.plot(
                [dot.cost], [dot.quality], marker="o", markersize=11, markerfacecolor="none", color=COLOURS[1], linestyle="none"
            )
            entries.append((ring, "picked"))
    ax.margins(0.08, 0.12)
    ax.set_xlabel(shown(x, 80))
    ax.set_ylabel(shown(y, 60))
    legend(drawn, entries)
    return drawn
