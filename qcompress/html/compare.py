"""A comparison of networks as one page, in the look of a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qcompress.html.charts import Interval, Intervals
from qcompress.html.numbers import Axis, axis, fixed
from qcompress.html.page import render
from qcompress.markdown import metric_title
from qcompress.plots.numbers import drawable
from qcompress.widths import WIDTHS

__all__ = ["Entry", "GroupRow", "ImageRow", "Page", "WidthRow", "comparison_html"]

_MOST_IMAGES = 40
_MOST_GROUPS = 200
_MOST_LAYERS = 200


@dataclass(frozen=True)
class Entry:
    """One network: its metrics as text, size, units kept and all, its speed against the first and the ends of the interval.

    `widths` says how many layers have which width, "" where no plan does.
    """

    name: str
    metrics: tuple[str, ...]
    size_bytes: int
    units: tuple[int, int] | None
    widths: str
    speedup: tuple[float, float, float] | None
    verdict: str
    sha256: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ImageRow:
    """An image, with the metric of every network on it."""

    name: str
    values: Sequence[float]


@dataclass(frozen=True)
class GroupRow:
    """A group, with what every network keeps of it (None: it has none, or no plan); `same` where that is the same units."""

    name: str
    total: int
    kept: tuple[int | None, ...]
    same: bool


@dataclass(frozen=True)
class WidthRow:
    """A layer, with the width of its weights in every network (None: not known); `same` where that is one."""

    layer: str
    widths: tuple[str | None, ...]
    same: bool


@dataclass(frozen=True)
class Page:
    """What is on the page; `metrics` are (name, unit), of the first one images are shown, the largest loss first."""

    entries: tuple[Entry, ...]
    metrics: tuple[tuple[str, str], ...]
    higher_is_better: bool
    images: tuple[ImageRow, ...]
    differing: tuple[GroupRow, ...]
    alike: int
    source: str
    widths: tuple[WidthRow, ...] = ()
    alike_widths: int = 0


@dataclass(frozen=True)
class Dots:
    """An image's dots, one for each network in its colour, and the values as text."""

    name: str
    places: tuple[float | None, ...]
    text: str


def comparison_html(page: Page) -> str:
    """The text of the page."""
    shown = page.images[:_MOST_IMAGES]
    found = axis([value for row in shown for value in row.values])
    name, unit = page.metrics[0]
    digits = 2 if unit in ("dB", "%") else 4
    return render(
        "compare.html.jinja",
        title=" and ".join(entry.name for entry in page.entries),
        page=page,
        metric=metric_title(name, unit),
        titles=[metric_title(*one) for one in page.metrics],
        axis=found,
        dots=[_dots(row, found, digits) for row in shown] if found else [],
        more_images=len(page.images) - len(shown),
        latency=_intervals(page.entries),
        groups=page.differing[:_MOST_GROUPS],
        more_groups=max(0, len(page.differing) - _MOST_GROUPS),
        layers=page.widths[:_MOST_LAYERS],
        more_layers=max(0, len(page.widths) - _MOST_LAYERS),
        narrow=any(entry.widths not in ("", WIDTHS[0]) for entry in page.entries),
    )


def _dots(row: ImageRow, found: Axis, digits: int) -> Dots:
    places = tuple(found.place(value) if drawable(value) else None for value in row.values)
    return Dots(row.name, places, " · ".join(fixed(value, digits) for value in row.values))


def _intervals(entries: tuple[Entry, ...]) -> Intervals | None:
    known = [(n, entry.name, *entry.speedup) for n, entry in enumerate(entries) if entry.speedup is not None]
    found = axis([1.0, *(value for _, _, *values in known for value in values)])
    if not known or found is None:
        return None
    rows = [
        Interval(
            name=name,
            low=found.place(low),
            middle=found.place(middle),
            high=found.place(high),
            text=f"{middle:.2f} [{low:.2f}, {high:.2f}]",
            kind=str(n % 7),
        )
        for n, name, middle, low, high in known
    ]
    return Intervals(found, found.place(1.0), tuple(rows))
