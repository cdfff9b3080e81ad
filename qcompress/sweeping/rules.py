"""By which rule one point of a sweep is picked: from the selection images alone, so that the report images stay unseen."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from qcompress.drops import parse_drop
from qcompress.errors import UsageError
from qcompress.gate.limits import LEAST_ROUNDS
from qcompress.quantities import parse_bytes
from qcompress.sweeping.facts import PointFacts, SweepFacts
from qcompress.sweeping.front import Place, knee

__all__ = ["Rule", "parse_rule", "picked"]

_EXAMPLES = "knee, drop:0.1, speedup:2 or size:300kB"
_FACTOR = re.compile(r"^\s*(\d+(?:\.\d*)?|\.\d+)\s*$", re.ASCII)


@dataclass(frozen=True)
class Rule:
    """knee: of the front; drop: the cheapest point within it; speedup, size: the best point that meets it.

    The drop of a point is that on the judging crops of the selection images. It is within the limit where it is with its
    margin, as for `--smallest`; a speedup is met where its whole confidence interval lies at or above it. `unit` is that of the
    drop, "" for the metric's own.
    """

    kind: Literal["knee", "drop", "speedup", "size"]
    limit: float = 0.0
    text: str = "knee"
    unit: str = ""


def parse_rule(text: str) -> Rule:
    """The value of --pick. Raises UsageError.

    >>> parse_rule("knee").kind, parse_rule("drop:0.1dB").limit, parse_rule("size:300kB").limit
    ('knee', 0.1, 300000.0)
    """
    kind, colon, amount = text.strip().partition(":")
    if kind == "knee" and not colon:
        return Rule("knee", 0.0, "knee")
    if kind == "size" and colon:
        return Rule("size", float(parse_bytes(amount, "--pick size:")), text.strip())
    if kind == "drop" and colon:
        drop = parse_drop(amount, "--pick drop:")
        return Rule("drop", drop.amount, text.strip(), drop.unit)
    found = _FACTOR.match(amount)
    if found is None or kind != "speedup":
        raise UsageError(f"--pick {text[:40]!r}: not a rule", f"one of {_EXAMPLES}")
    return Rule("speedup", float(found.group(1)), text.strip())


def picked(rule: Rule, facts: SweepFacts) -> PointFacts | None:
    """The point that the rule names among those that are finished; None where there is none."""
    points = [point for point in facts.points if point.status == "ok"]
    if rule.kind == "knee":
        return _knee(points, facts)
    if rule.kind == "drop":
        within = [point for point in points if point.judged is not None and point.judged + _margin(point) <= rule.limit]
        return _least(within, lambda point: point.judged_place(facts.against).cost, _judged)
    if rule.kind == "speedup":
        enough = [point for point in points if _surely(point) >= rule.limit]
    else:
        enough = [point for point in points if point.bytes is not None and point.bytes <= rule.limit]
    return _least(enough, _judged, lambda point: point.cost(facts.against))


def _knee(points: Sequence[PointFacts], facts: SweepFacts) -> PointFacts | None:
    """Of the front by the judging crops, whose one end is the dense network, mostly; that one itself is never picked."""
    if facts.dense is None:
        return None
    places = [point.judged_place(facts.against) for point in points]
    found = knee([Place(facts.dense.cost(facts.against), 0.0), *places])
    return points[found - 1] if found else None


def _least(points: Sequence[PointFacts], *by: Callable[[PointFacts], float]) -> PointFacts | None:
    """The first by the keys, of those for which they are numbers."""
    known = [point for point in points if not any(math.isnan(key(point)) for key in by)]
    return min(known, key=lambda point: tuple(key(point) for key in by), default=None)


def _judged(point: PointFacts) -> float:
    return math.nan if point.judged is None else point.judged


def _margin(point: PointFacts) -> float:
    return math.inf if point.margin is None else point.margin


def _surely(point: PointFacts) -> float:
    """The lower end of the speedup's interval, where there were rounds enough for one."""
    low = None if point.ci95 is None or point.rounds < LEAST_ROUNDS else point.ci95[0]
    return -math.inf if low is None else low
