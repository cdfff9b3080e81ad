"""The metric against the share removed, one line an objective: medians over the seeds, their range as a band."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from qcompress.plots.numbers import drawable
from qcompress.plots.rows import Row
from qcompress.plots.style import COLOURS, MARKERS, QUIET, figure, legend, shown, styled

__all__ = ["Value", "against_sparsity", "other_images", "spread"]

Value = Literal["repaired", "cut"]
Spread: TypeAlias = dict[float, tuple[float, float, float]]
_PANEL_IN = 2.9
_DIGITS = 4  # of a share: closer ones are the same point


def spread(rows: Iterable[Row], value: Value = "repaired", *, to_dense: bool = False) -> Spread:
    """(median, least, greatest) over the seeds at each share removed, ascending; `to_dense` of the paired difference.

    Values that cannot be drawn are left out.
    """
    found: dict[float, list[float]] = {}
    for row in rows:
        measured = getattr(row, value) - (row.dense if to_dense else 0.0)
        if drawable(measured) and drawable(row.sparsity):
            found.setdefault(round(row.sparsity, _DIGITS), []).append(measured)
    return {share: (float(np.median(found[share])), min(found[share]), max(found[share])) for share in sorted(found)}


def other_images(rows: Iterable[Row]) -> bool:
    """Whether runs of one panel were measured on different images, as seeds deal them: their dense networks differ."""
    dense: dict[tuple[str, int, str, str], set[float]] = {}
    for row in rows:
        dense.setdefault(_panel(row), set()).add(row.dense)
    return any(len(values) > 1 for values in dense.values())


@styled
def against_sparsity(rows: Sequence[Row], value: Value = "repaired", *, to_dense: bool = False) -> Figure:
    """A panel for every network, alignment and metric; an objective has the same colour in all of them.

    `to_dense` draws what each network lost against its own dense one: where seeds deal other images, the band is then of the
    pruning alone. At least one row.
    """
    panels = list(dict.fromkeys(_panel(row) for row in rows))
    objectives = {name: number for number, name in enumerate(dict.fromkeys(row.objective for row in rows))}
    columns = min(2, len(panels))
    drawn, axes = figure(_PANEL_IN * math.ceil(len(panels) / columns) + 0.3, math.ceil(len(panels) / columns), columns)
    entries: list[tuple[Artist, str]] = []
    for ax, panel in zip(axes, panels, strict=False):
        mine = [row for row in rows if _panel(row) == panel]
        _dense(ax, mine, entries, to_dense=to_dense)
        for name, number in objectives.items():
            points = spread((row for row in mine if row.objective == name), value, to_dense=to_dense)
            if points:
                entries.append((_line(ax, points, number), shown(name, 60)))
        network, align, metric, unit = panel
        if len(panels) > 1:
            ax.set_title(f"{shown(network, 34)}, align {align}")
        ax.set_xlabel("units removed, %")
        points_of = "points" if unit == "%" and to_dense else unit
        ax.set_ylabel(("change of " if to_dense else "") + shown(metric) + (f", {shown(points_of)}" if points_of else ""))
    for ax in axes[len(panels) :]:
        ax.remove()
    legend(drawn, entries)
    return drawn


def _panel(row: Row) -> tuple[str, int, str, str]:
    return row.network, row.align, row.metric, row.unit


def _dense(ax: Axes, rows: Sequence[Row], entries: list[tuple[Artist, str]], *, to_dense: bool) -> None:
    finite = [row.dense for row in rows if drawable(row.dense)]
    if finite:
        height = 0.0 if to_dense else float(np.median(finite))
        entries.append((ax.axhline(height, color=QUIET, linestyle="--", linewidth=1.0), "dense"))


def _line(ax: Axes, points: Spread, number: int) -> Artist:
    shares = [100 * share for share in points]
    medians, least, greatest = zip(*points.values(), strict=True)
    colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
    ax.fill_between(shares, least, greatest, color=colour, alpha=0.15, linewidth=0)
    ax.vlines(shares, least, greatest, color=colour, alpha=0.5, linewidth=1.0)
    (line,) = ax.plot(shares, medians, marker=marker, color=colour)
    return line
