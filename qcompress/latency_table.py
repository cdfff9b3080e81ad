"""A latency table as a file: what was timed on which machine, and the times. Data from a stranger: bounded and validated.

A plan says which of the timed models stands for which part of a network; a table is a plan with the times. Times are those of
whole models: a layer stands in its model between two light convolutions, whose own time is in the table, too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from qcompress.errors import InputError
from qcompress.plans import Name

__all__ = [
    "CarrierTimes",
    "DeviceFacts",
    "LatencyPlan",
    "LatencyTable",
    "NetworkTimes",
    "OperationTimes",
    "ShapeTimes",
    "TimedLayer",
    "read",
]

LARGEST_BYTES = 16 * 2**20
LARGEST_NS = 1e12
_AGAIN = "make it again with qcompress profile"

Job = Annotated[int, Field(ge=0, lt=100_000)]
Jobs = Annotated[tuple[Job, ...], Field(max_length=64)]
Channels = Annotated[int, Field(ge=1, le=2**20)]
Grid = Annotated[tuple[Channels, ...], Field(min_length=1, max_length=64)]
Text = Annotated[str, Field(max_length=300)]
Nanoseconds = Annotated[float, Field(gt=0, lt=LARGEST_NS, allow_inf_nan=False)]
T = TypeVar("T", bound=BaseModel)


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)


class DeviceFacts(_Record):
    """The machine that the times are of."""

    processor: Text
    system: Text
    onnxruntime: Text


class CarrierTimes(_Record):
    """The two light convolutions that parts are timed between, for one width and size: the second `once`, and `twice`."""

    once: Job
    twice: Job


class TimedLayer(_Record):
    """A layer that mixes channels, once for every time that it is computed: its dense channels, and its place in `shapes`."""

    name: Name
    inputs: Channels
    outputs: Channels
    shape: Annotated[int, Field(ge=0, lt=10_000)]


class ShapeTimes(_Record):
    """Layers of one kind and size, timed at the widths `inputs` x `outputs`: `jobs` has a row for each of `inputs`.

    Of a layer that loses whole divisions (`divided`) `inputs` has one entry, which does not count. `before` and `after` are the
    places in `carriers` of the light convolutions around it, at each of the widths (before such a layer, those of its outputs).
    """

    title: Text
    inputs: Grid
    outputs: Grid
    jobs: Annotated[tuple[Jobs, ...], Field(min_length=1, max_length=64)]
    divided: bool = False
    before: Jobs = ()
    after: Jobs = ()

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if any(list(grid) != sorted(set(grid)) for grid in (self.inputs, self.outputs)):
            raise ValueError("widths must ascend")
        if len(self.jobs) != len(self.inputs) or any(len(row) != len(self.outputs) for row in self.jobs):
            raise ValueError("expected a job for every pair of widths")
        if self.divided and len(self.inputs) > 1:
            raise ValueError("whole divisions have one row")
        for around, grid in ((self.before, self.outputs if self.divided else self.inputs), (self.after, self.outputs)):
            if around and len(around) != len(grid):
                raise ValueError("expected a light convolution for every width")
        return self


class OperationTimes(_Record):
    """Any other operation at its dense widths: `sources` are the layers whose channels it works on."""

    title: Text
    sources: Annotated[tuple[Name, ...], Field(max_length=1000)]
    job: Job
    before: Jobs = ()
    after: Jobs = ()


class NetworkTimes(_Record):
    """A whole network, with so many units pruned per group; none: the dense one."""

    pruned: Annotated[dict[Name, Annotated[int, Field(ge=0, le=2**20)]], Field(max_length=10_000)]
    job: Job


class LatencyPlan(_Record):
    """What is to be timed: `networks` has the dense one first; `groups` are the units per group, `block` channels at a time."""

    schema_version: Literal[1] = Field(default=1, validation_alias="schema", serialization_alias="schema")
    kind: Literal["qcompress latency table"] = "qcompress latency table"
    tool: Name
    architecture: Name
    example_shape: Annotated[tuple[Channels, ...], Field(min_length=1, max_length=8)]
    threads: Annotated[int, Field(ge=1, le=1024)]
    block: Annotated[int, Field(ge=1, le=1024)]
    groups: Annotated[dict[Name, Channels], Field(max_length=10_000)]
    carriers: Annotated[tuple[CarrierTimes, ...], Field(max_length=10_000)]
    layers: Annotated[tuple[TimedLayer, ...], Field(max_length=10_000)]
    shapes: Annotated[tuple[ShapeTimes, ...], Field(max_length=10_000)]
    operations: Annotated[tuple[OperationTimes, ...], Field(max_length=10_000)]
    networks: Annotated[tuple[NetworkTimes, ...], Field(min_length=1, max_length=100)]

    @model_validator(mode="after")
    def _connected(self) -> Self:
        if any(layer.shape >= len(self.shapes) for layer in self.layers):
            raise ValueError("a layer has a shape that there is not")
        around = [place for shape in self.shapes for place in (*shape.before, *shape.after)]
        around += [place for found in self.operations for place in (*found.before, *found.after)]
        if any(place >= len(self.carriers) for place in around):
            raise ValueError("a carrier is named that there is not")
        if self.networks[0].pruned:
            raise ValueError("the first network is not the dense one")
        if any(not self.groups.keys() >= network.pruned.keys() for network in self.networks):
            raise ValueError("a network has a group that there is not")
        return self

    @property
    def needed(self) -> list[int]:
        """The jobs that there has to be a time of."""
        found = [job for shape in self.shapes for row in shape.jobs for job in row]
        return [*found, *(job for carrier in self.carriers for job in (carrier.once, carrier.twice)), self.networks[0].job]

    @property
    def most_jobs(self) -> int:
        """One more than the largest job that is named."""
        others = [*(found.job for found in self.operations), *(network.job for network in self.networks)]
        return 1 + max([*self.needed, *others])


class LatencyTable(LatencyPlan):
    """A plan with the times of its jobs on a machine, in nanoseconds; null for a model that did not run there."""

    device: DeviceFacts
    times_ns: Annotated[tuple[Nanoseconds | None, ...], Field(max_length=100_000)]

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.most_jobs > len(self.times_ns):
            raise ValueError(f"{len(self.times_ns)} times, expected {self.most_jobs}")
        if any(self.times_ns[job] is None for job in self.needed):
            raise ValueError("a layer, or the dense network, has no time: it did not run on that machine")
        return self

    def light(self, place: int) -> tuple[float, float]:
        """Nanoseconds of the first and of the second light convolution of a carrier."""
        once, twice = (self.ns(job) for job in (self.carriers[place].once, self.carriers[place].twice))
        second = min(max(twice - once, 0.0), once)
        return once - second, second

    def ns(self, job: int) -> float:
        """The time of a job that has one."""
        found = self.times_ns[job]
        assert found is not None
        return found


def read(path: Path) -> LatencyTable:
    """The table in the file at `path`. Raises InputError: missing, larger than 16 MiB, not a table, with impossible values."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(f"{path}: cannot be read: {reason}", "give the file that qcompress profile wrote") from error
    if len(data) > LARGEST_BYTES:
        raise InputError(f"{path}: larger than {LARGEST_BYTES // 2**20} MiB, which no latency table is", _AGAIN)
    try:
        return LatencyTable.model_validate_json(data)
    except (ValidationError, RecursionError) as error:
        reason = str(error).splitlines()[0][:200]
        if isinstance(error, ValidationError):
            first = error.errors(include_url=False)[0]
            reason = f"{'.'.join(str(part) for part in first['loc'])[:120] or 'the file'}: {first['msg']}"
        shown = reason.encode("unicode_escape").decode()
        raise InputError(f"{path}: not a latency table of schema 1: {shown}", _AGAIN) from error
