"""The schema of sweep.json: every point of a sweep in plain values. Its keys are stable within a schema number."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from qcompress.report_values import Number, Text
from qcompress.reports import CheckpointFacts
from qcompress.sweeping.front import Place, on_front

__all__ = ["AXES", "Axis", "DenseFacts", "PickFacts", "PointFacts", "SweepFacts", "SweepStatus", "known", "ranked", "to_json"]

Axis = Literal["macs", "params", "size", "latency"]
AXES: tuple[Axis, ...] = ("macs", "params", "size", "latency")
"""What quality can be set against."""

SweepStatus = Literal["running", "ok", "failed", "pick-missed", "interrupted"]


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_name=True, validate_by_alias=True)


class DenseFacts(_Facts):
    """The network that the points are compared with; `bytes` of its ONNX file, `metric` on the report images."""

    params: int
    macs: int
    bytes: int | None
    metric: Number

    def cost(self, axis: Axis) -> float:
        """On an axis; of latency it is 1."""
        return 1.0 if axis == "latency" else known({"macs": self.macs, "params": self.params, "size": self.bytes}[axis])


class PointFacts(_Facts):
    """A network at a `share` of the budget, in the slim folder `folder`; of a point that failed, `reason` says why.

    metric, drop   on the report images, of the ONNX file; and how much worse that is than the dense network
    judged         how much worse the slim network is on the judging crops of the selection images, `margin` for their number
    speedup, ci95  against the dense network, the two measured in alternation, in so many `rounds`
    on_front       whether no other point, and not the dense network, costs as little and loses as little on the report images
    key            names all that the point depends on, None where that cannot be told; `report` is the SHA-256 of report.json
    """

    share: float
    status: Literal["ok", "interrupted", "failed"]
    folder: Text | None = None
    reason: Text | None = None
    units: int | None = None
    pruned: int | None = None
    params: int | None = None
    macs: int | None = None
    bytes: int | None = None
    metric: Number = None
    drop: Number = None
    judged: Number = None
    margin: Number = None
    speedup: Number = None
    ci95: tuple[Number, Number] | None = None
    rounds: int = 0
    on_front: bool = False
    key: str | None = None
    report: str | None = None

    def cost(self, axis: Axis) -> float:
        """On an axis, nan where it is not known. Of latency it is the share of the dense network's time.

        Milliseconds of two points were not measured in alternation, those of a point and the dense network were.
        """
        if axis == "latency":
            return 1 / self.speedup if self.speedup else math.nan
        return known({"macs": self.macs, "params": self.params, "size": self.bytes}[axis])

    def reported(self, axis: Axis) -> Place:
        """By the drop on the report images."""
        return Place(self.cost(axis), known(self.drop))

    def judged_place(self, axis: Axis) -> Place:
        """By the drop on the judging crops."""
        return Place(self.cost(axis), known(self.judged))


class PickFacts(_Facts):
    """The point that `rule` names, copied to `folder`; without one, `reason` says why there is none."""

    rule: str
    share: float | None = None
    folder: Text | None = None
    reason: str | None = None


class SweepFacts(_Facts):
    """One sweep. `against` is the cost that the front is of; `crops` the number of judging crops; drops are in `drop_unit`."""

    schema_number: Literal[1] = Field(1, alias="schema")
    status: SweepStatus
    checkpoint: CheckpointFacts
    budget: str
    against: Axis
    metric: str
    unit: str
    drop_unit: str
    higher_is_better: bool
    crops: int
    dense: DenseFacts | None = None
    points: tuple[PointFacts, ...] = ()
    pick: PickFacts | None = None
    seed: int
    versions: dict[str, str]


def ranked(facts: SweepFacts) -> SweepFacts:
    """With `on_front` of every point, among the points and the dense network."""
    if facts.dense is None:
        return facts
    places = [point.reported(facts.against) for point in facts.points]
    best = on_front([Place(facts.dense.cost(facts.against), 0.0), *places])[1:]
    points = tuple(point.model_copy(update={"on_front": first}) for point, first in zip(facts.points, best, strict=True))
    return facts.model_copy(update={"points": points})


def to_json(facts: SweepFacts) -> str:
    """The text of sweep.json, UTF-8, indented; NaN and infinities are null."""
    return facts.model_dump_json(by_alias=True, indent=2) + "\n"


def known(value: float | None) -> float:
    """Nan for None."""
    return math.nan if value is None else float(value)
