"""Charts as plain numbers: what the template turns into a few lines of SVG and boxes placed in per cent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qcompress.html.numbers import Axis, axis, fixed
from qcompress.markdown import metric_title
from qcompress.plots.climbing import climbed
from qcompress.plots.numbers import drawable
from qcompress.reports import LatencyFacts, MetricFacts, RefineFacts, Report, SearchFacts

__all__ = [
    "Curve",
    "Dumbbell",
    "Dumbbells",
    "Interval",
    "Intervals",
    "Marks",
    "climb",
    "energies",
    "images",
    "latency",
    "stages",
    "trace",
]

_MOST_IMAGES = 40


@dataclass(frozen=True)
class Curve:
    """A line over 0..100 in both directions, y downwards: the path as SVG takes it, and its points."""

    path: str
    points: tuple[tuple[float, float], ...]
    x: Axis
    y: Axis
    x_title: str
    y_title: str


@dataclass(frozen=True)
class Interval:
    """A value and its interval on an axis, in per cent."""

    name: str
    low: float
    middle: float | None
    high: float
    text: str
    kind: str


@dataclass(frozen=True)
class Intervals:
    """Intervals over one axis; `one` is where the axis has 1."""

    axis: Axis
    one: float
    rows: tuple[Interval, ...]


@dataclass(frozen=True)
class Dumbbell:
    """Dense and slim of one image."""

    name: str
    dense: float
    slim: float
    text: str


@dataclass(frozen=True)
class Dumbbells:
    """Images, the largest loss first; `left_out` more are not shown."""

    axis: Axis
    rows: tuple[Dumbbell, ...]
    left_out: int


@dataclass(frozen=True)
class Marks:
    """Named places on one axis: (name, per cent, text, kind)."""

    axis: Axis
    rows: tuple[tuple[str, float, str, str], ...]


def latency(facts: LatencyFacts | None) -> Intervals | None:
    """The speedup with its interval, and what this machine took for a difference where there is none."""
    if facts is None or not drawable(facts.speedup):
        return None
    low, high = facts.ci95
    if not drawable(low) or not drawable(high):
        return None
    noise = facts.noise if all(map(drawable, facts.noise)) else None
    found = axis((1.0, facts.speedup, low, high, *(noise or ())))
    assert found is not None
    said = f"{facts.speedup:.2f} times as fast, 95 % interval {low:.2f} to {high:.2f}"
    rows = [Interval("slim", found.place(low), found.place(facts.speedup), found.place(high), said, "slim")]
    if noise is not None and drawable(noise[0]) and drawable(noise[1]):
        text = f"{noise[0]:.2f} to {noise[1]:.2f}"
        rows.append(Interval("same file twice", found.place(noise[0]), None, found.place(noise[1]), text, "noise"))
    return Intervals(found, found.place(1.0), tuple(rows))


def images(metric: MetricFacts) -> Dumbbells | None:
    """The metric of every report image, dense and in the ONNX file; None where images have no names or no values.

    Nor of top-1, which is all or nothing for an image.
    """
    each = metric.per_image
    if each is None or metric.name == "top1":
        return None
    pairs = [
        (name, dense, slim)
        for name, dense, slim in zip(each.names, each.dense, each.artifact or each.slim, strict=False)
        if drawable(dense) and drawable(slim)
    ]
    found = axis([value for _, *values in pairs for value in values])
    if found is None:
        return None
    worse = -1.0 if metric.higher_is_better is False else 1.0
    pairs.sort(key=lambda pair: worse * (pair[1] - pair[2]), reverse=True)
    digits = 2 if metric.unit in ("dB", "%") else 4
    rows = tuple(
        Dumbbell(name, found.place(dense), found.place(slim), f"{dense:.{digits}f} → {slim:.{digits}f}")
        for name, dense, slim in pairs[:_MOST_IMAGES]
    )
    return Dumbbells(found, rows, max(0, len(pairs) - _MOST_IMAGES))


def stages(metric: MetricFacts) -> Marks | None:
    """The metric along the run, from the input to the ONNX file."""
    known = (
        ("noisy input", metric.noisy, "input"),
        ("bicubic", metric.bicubic, "input"),
        ("dense", metric.dense, "dense"),
        ("cut, as searched", metric.selected, "between"),
        ("cut, refined", metric.refined, "between"),
        ("repaired", metric.slim, "slim"),
        ("ONNX file", metric.artifact, "slim"),
    )
    found = axis([value for _, value, _ in known])
    if found is None:
        return None
    digits = 2 if metric.unit in ("dB", "%") else 4
    rows = (
        (name, found.place(value), fixed(value, digits, metric.unit), kind) for name, value, kind in known if drawable(value)
    )
    return Marks(found, tuple(rows))


def energies(search: SearchFacts) -> Marks | None:
    """The energy found, beside greedy pruning and the bound below which no selection can be."""
    known = (
        ("lower bound", search.lower_bound, "between"),
        ("found", search.energy, "slim"),
        ("greedy", search.greedy_energy, "dense"),
    )
    if not drawable(search.energy) or not any(drawable(value) for _, value, _ in (known[0], known[2])):
        return None
    found = axis([value for _, value, _ in known])
    assert found is not None
    rows = (
        (name, found.place(value), f"{value:.4g}".replace("-", "−"), kind) for name, value, kind in known if drawable(value)
    )
    return Marks(found, tuple(rows))


def climb(report: Report) -> Curve | None:
    """The best value of the refinement against the evaluations spent, as steps."""
    points = climbed(report)
    refine: RefineFacts | None = report.refine
    if not points or refine is None:
        return None
    name, unit = (refine.metric, refine.unit) if refine.metric else (report.metric.name, report.metric.unit)
    title = f"best {metric_title(name, unit)} so far{f', {unit}' if unit else ''}"
    return _curve(points, "evaluations of all selection images", title, steps=True)


def trace(search: SearchFacts) -> Curve | None:
    """What every gamma of the capacity search freed, in the order of gamma."""
    known = [(step.get("gamma"), step.get("capacity")) for step in search.trace]
    points = sorted((gamma, capacity) for gamma, capacity in known if drawable(gamma) and drawable(capacity))
    if len(points) < 2:
        return None
    return _curve(points, "gamma, energy per capacity", f"freed, {search.budget or 'capacity'}")


def _curve(points: Sequence[tuple[float, float]], x_title: str, y_title: str, *, steps: bool = False) -> Curve | None:
    x, y = axis([a for a, _ in points], margin=0.02), axis([b for _, b in points], wanted=4)
    if x is None or y is None:
        return None
    places = tuple((x.place(a), round(100 - y.place(b), 2)) for a, b in points)
    path = f"M{places[0][0]} {places[0][1]}" + "".join(f"H{a}V{b}" if steps else f"L{a} {b}" for a, b in places[1:])
    return Curve(path, places, x, y, x_title, y_title)
