"""Units kept in every group, in model order, with the dense width as an outline."""

from __future__ import annotations

import math
from collections.abc import Mapping

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from qcompress.plots.style import COLOURS, QUIET, figure, layer_name, legend, styled
from qcompress.reports import GroupUnits

__all__ = ["channels"]

_ONE_COLUMN, _TWO_COLUMNS = 20, 100  # groups
_LONGEST = {1: 48, 2: 24, 3: 16}  # characters of a name, by the number of columns
_ROW_IN, _MOST_IN, _FRAME_IN = 0.16, 8.0, 0.9
_LABEL_IN = 0.13  # labels closer than this would touch


@styled
def channels(groups: Mapping[str, GroupUnits]) -> Figure:
    """One bar a group, from top to bottom, then in the next column; beyond about 150 groups only every second is named."""
    columns = 1 if len(groups) <= _ONE_COLUMN else 2 if len(groups) <= _TWO_COLUMNS else 3
    rows = math.ceil(len(groups) / columns)
    height = min(max(rows, 3) * (_ROW_IN if columns > 1 else 0.24), _MOST_IN)
    drawn, axes = figure(height + _FRAME_IN, columns=columns)
    widest = max(group.total for group in groups.values())
    items = list(groups.items())
    every = math.ceil(_LABEL_IN * rows / height)
    entries: list[tuple[Artist, str]] = []
    for place, ax in enumerate(axes):
        part = dict(items[place * rows : (place + 1) * rows])
        entries += _bars(ax, part, rows, _LONGEST[columns], every, small=columns > 1)
        ax.set_xlim(0, 1.01 * max(widest, 1))  # the outline's own width
        ax.xaxis.set_major_locator(MaxNLocator(5 - columns, integer=True))
        ax.set_xlabel("units")
    legend(drawn, entries)
    return drawn


def _bars(
    ax: Axes, groups: Mapping[str, GroupUnits], rows: int, longest: int, every: int, *, small: bool
) -> list[tuple[Artist, str]]:
    places = range(len(groups))
    totals = [group.total for group in groups.values()]
    kept = [group.total - group.pruned for group in groups.values()]
    outlines = ax.barh(places, totals, height=0.72, fill=False, edgecolor=QUIET, linewidth=0.7)
    bars = ax.barh(places, kept, height=0.72, color=COLOURS[0])
    size = 6.5 if small else 8
    named = places[::every]
    names = list(groups)
    ax.set_yticks(list(named), [layer_name(names[place], longest) for place in named], fontsize=size)
    for place in named:
        text = _removed(kept[place], totals[place])
        ax.text(1.03, place, text, transform=ax.get_yaxis_transform(), va="center", fontsize=size)
    ax.set_ylim(rows - 0.4, -0.6)
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    return [*((bar, "kept") for bar in bars.patches[:1]), *((outline, "dense") for outline in outlines.patches[:1])]


def _removed(kept: int, total: int) -> str:
    """As text.

    >>> _removed(8, 16), _removed(16, 16), _removed(511, 512)
    ('8 of 16, −50 %', '16 of 16', '511 of 512, −0.2 %')
    """
    if kept >= total:
        return f"{kept} of {total}"
    share = 100 * (total - kept) / total
    digits = 0 if 1 <= share <= 99 or not kept else 1
    return f"{kept} of {total}, −{share:.{digits}f} %"
