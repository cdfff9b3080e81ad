"""A sweep as a table, for the terminal and for sweep.md."""

from __future__ import annotations

from collections.abc import Iterable

from qcompress.gate.limits import LEAST_ROUNDS
from qcompress.markdown import metric_title
from qcompress.markdown_text import escape
from qcompress.sweeping.facts import PointFacts, SweepFacts

__all__ = ["PICTURE", "columns", "rows", "said", "title", "to_markdown"]

PICTURE = "sweep.svg"
_AXES = {"macs": "MACs", "params": "parameters", "size": "bytes", "latency": "time"}


def title(facts: SweepFacts) -> str:
    """One line on what was swept."""
    front = f"{metric_title(facts.metric, facts.unit)} against {_AXES[facts.against]}"
    return f"{facts.checkpoint.file}, shares of {facts.budget}; front: {front}"


def columns(facts: SweepFacts) -> tuple[str, ...]:
    """The table's head."""
    unit = f", {facts.drop_unit}" if facts.drop_unit else ""
    named = metric_title(facts.metric, facts.unit) + (f", {facts.unit}" if facts.unit else "")
    return ("share", "gone", "MACs", "bytes", named, f"drop{unit}", "selection", "speed (95 %)", "")


def rows(facts: SweepFacts) -> list[tuple[str, ...]]:
    """The dense network, then every point by its share; as text."""
    found = [] if facts.dense is None else [_dense(facts)]
    picked = facts.pick.share if facts.pick else None
    return found + [_row(point, facts, picked=point.share == picked) for point in facts.points]


def said(facts: SweepFacts) -> list[str]:
    """What is to be read under the table: the point that was picked, and why points failed."""
    lines = [f"{_share(point)} failed: {point.reason}" for point in facts.points if point.status == "failed"]
    pick = facts.pick
    if pick is not None and pick.share is not None:
        lines.append(f"picked by {pick.rule}: {100 * pick.share:g} %, copied to {pick.folder}")
    elif pick is not None:
        lines.append(f"nothing picked by {pick.rule}: {pick.reason}")
    return lines


def to_markdown(facts: SweepFacts, *, picture: bool) -> str:
    """The text of sweep.md."""
    parts = [f"# {escape(title(facts))}", _table(columns(facts), rows(facts)), *map(escape, said(facts))]
    if picture:
        parts.append(f"![The metric against the cost of every point, the front as a line]({PICTURE})")
    parts.append(
        f"Drops are against the dense network: on the report images, and (selection) on {facts.crops} crops of the selection "
        "images with a one-sided margin of 95 %. A point is on the front where no other, and not the dense network, costs as "
        "little and loses as little on the report images. What is picked is picked by the selection crops, never by the report "
        "images."
    )
    return "\n\n".join(parts) + "\n"


def _table(head: Iterable[str], body: Iterable[Iterable[str]]) -> str:
    lines = [tuple(head), *map(tuple, body)]
    text = ["| " + " | ".join(map(escape, line)) + " |" for line in lines]
    return "\n".join([text[0], "|" + "---|" * len(lines[0]), *text[1:]])


def _dense(facts: SweepFacts) -> tuple[str, ...]:
    dense = facts.dense
    assert dense is not None
    return ("dense", "", _short(dense.macs), _short(dense.bytes), _value(dense.metric, facts.unit), "", "", "", "")


def _row(point: PointFacts, facts: SweepFacts, *, picked: bool) -> tuple[str, ...]:
    if point.status == "failed":
        return (_share(point), *["-"] * 7, "failed")
    place = "interrupted" if point.status == "interrupted" else "front" if point.on_front else "dominated"
    return (
        _share(point),
        f"{point.pruned}/{point.units}",
        _short(point.macs),
        _short(point.bytes),
        _value(point.metric, facts.unit),
        _value(point.drop, facts.unit, 3),
        f"{_value(point.judged, facts.unit, 3)} ± {_value(point.margin, facts.unit, 3)}",
        _speed(point),
        f"{place}, picked" if picked else place,
    )


def _share(point: PointFacts) -> str:
    return f"{100 * point.share:g} %"


def _value(value: float | None, unit: str, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits if unit in ('dB', '%') else 4}f}"


def _short(value: float | None) -> str:
    """Three digits and a thousand's letter, so that a row fits a terminal; sweep.json has the number.

    >>> _short(5_073_666_048), _short(930_632), _short(12), _short(None)
    ('5.07G', '931k', '12', '-')
    """
    if value is None:
        return "-"
    for power, letter in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if value >= 0.9995 * 10**power:
            scaled = value / 10**power
            return f"{scaled:.{max(0, 2 - len(str(int(scaled))) + 1)}f}{letter}"
    return f"{value:g}"


def _speed(point: PointFacts) -> str:
    if point.speedup is None:
        return "-"
    low, high = point.ci95 or (None, None)
    interval = "" if point.rounds < LEAST_ROUNDS or low is None or high is None else f" ({low:.2f}-{high:.2f})"
    return f"{point.speedup:.2f}{interval}"
