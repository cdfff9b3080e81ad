"""The schema of report.json: everything a run found, in plain values. Its keys are stable within a schema number."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from qcompress.errors import InputError

__all__ = [
    "CheckpointFacts",
    "Cost",
    "CostPair",
    "DataFacts",
    "FileFacts",
    "GroupUnits",
    "Kept",
    "LatencyFacts",
    "MetricFacts",
    "ParityFacts",
    "PerImage",
    "RefineFacts",
    "Report",
    "SearchFacts",
    "SplitFacts",
    "SsimFacts",
    "Status",
    "UnitFacts",
    "WallFacts",
    "read",
    "to_json",
]

Status = Literal["ok", "threshold-missed", "interrupted"]
_WORD = r"^[A-Za-z0-9 .%/-]*$"  # no markup
_DIGITS = 7  # significant digits that are kept of a float: more than any measurement here has


def _plain(value: object) -> object:
    """A float as JSON can hold it: finite (None otherwise), without the digits that say nothing."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None


Number = Annotated[float | None, BeforeValidator(_plain)]
Scalar = bool | int | Number | str


class _Facts(BaseModel):
    """Frozen, complete, and readable from any object that has attributes of the same names."""

    model_config = ConfigDict(frozen=True, extra="forbid", from_attributes=True)


class CheckpointFacts(_Facts):
    """What was pruned. `file` is the name or path the user gave."""

    file: str
    sha256: str
    architecture: str


class GroupUnits(_Facts):
    """Units of one group: all, and those that went."""

    total: int
    pruned: int


class UnitFacts(_Facts):
    """Units of the network; `per_group` in model order."""

    total: int
    pruned: int
    per_group: dict[str, GroupUnits]


class CostPair(_Facts):
    """A cost before and after; None where it was not measured."""

    dense: int | None
    slim: int | None


class Cost(_Facts):
    """Parameters, multiply-accumulates per image, bytes of the ONNX files."""

    params: CostPair
    macs: CostPair
    bytes: CostPair


class SsimFacts(_Facts):
    """Mean SSIM over the report images."""

    dense: Number = None
    slim: Number = None
    artifact: Number = None


class PerImage(_Facts):
    """The metric per report image, in the order of `names`; null where it is infinite."""

    names: tuple[str, ...]
    dense: tuple[Number, ...] = ()
    slim: tuple[Number, ...] = ()
    artifact: tuple[Number, ...] = ()


class MetricFacts(_Facts):
    """Means over `images` report images.

    In this order: the noisy input, the dense network, the network masked with the selection of the search, and with the refined
    one, the slim network after repair, and the ONNX file.
    """

    name: str = Field(pattern=_WORD)
    unit: str = Field(pattern=_WORD)
    images: int
    noisy: Number = None
    dense: Number
    selected: Number = None
    refined: Number = None
    slim: Number = None
    artifact: Number = None
    ssim: SsimFacts | None = None
    per_image: PerImage | None = None


class WallFacts(_Facts):
    """Percentiles of the wall time of one run, milliseconds."""

    p10_ms: Number
    p50_ms: Number
    p90_ms: Number


class LatencyFacts(_Facts):
    """The fields of `qcompress.latency.Latency`."""

    dense_ms: Number
    slim_ms: Number
    speedup: Number
    ci95: tuple[Number, Number]
    runs: int
    threads: int
    clock: Literal["thread", "wall"] = "thread"
    dense_wall: WallFacts | None = None
    slim_wall: WallFacts | None = None
    noise: tuple[Number, Number]
    verdict: Literal["faster", "slower", "no difference shown"]
    input_shape: tuple[int, ...] = ()


class ParityFacts(_Facts):
    """The ONNX file against the PyTorch network: largest difference, and over the largest output."""

    max_abs_diff: Number
    rel: Number
    gate: Number
    passed: bool


class SearchFacts(_Facts):
    """How the units were chosen; `trace` is one record per step.

    `asked` is the capacity that the budget wants, `capacity` what the search's selection frees; kept counts are multiples of
    `align`.
    """

    backend: str
    objective: str
    budget: str | None = None
    asked: int | None = None
    capacity: int | None = None
    align: int | None = None
    energy: Number
    greedy_energy: Number = None
    lower_bound: Number = None
    trace: tuple[dict[str, Scalar], ...] = ()


class RefineFacts(_Facts):
    """What measuring candidates gained; `history` holds (evaluations spent, best so far)."""

    evaluations: Number
    accepted: int
    gain_db: Number
    history: tuple[tuple[Number, Number], ...] = ()


class SplitFacts(_Facts):
    """The images of one role: how many, of how many scenes, and a hash over their pixels."""

    images: int
    scenes: int | None = None
    sha256: str


class DataFacts(_Facts):
    """Where the images came from and who saw which."""

    source: str
    calibration: SplitFacts
    selection: SplitFacts
    report: SplitFacts


class FileFacts(_Facts):
    """A file that was written, by its name in the output folder."""

    sha256: str
    bytes: int


class Kept(_Facts):
    """A layer that was not pruned, and why."""

    layer: str
    reason: str


class Report(_Facts):
    """One run. What was not reached (an interrupted run) or not asked for is None.

    `reasons` are the limits that were missed, `notes` what else the user should know; `command` reproduces the run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", from_attributes=True, validate_by_name=True, validate_by_alias=True)

    schema_number: Literal[1] = Field(1, alias="schema")
    status: Status
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    checkpoint: CheckpointFacts
    units: UnitFacts
    kept_whole: tuple[Kept, ...] = ()
    cost: Cost
    metric: MetricFacts
    latency: LatencyFacts | None = None
    parity: ParityFacts | None = None
    search: SearchFacts
    refine: RefineFacts | None = None
    data: DataFacts
    files: dict[str, FileFacts] = {}
    command: str | None = None
    seed: int
    versions: dict[str, str]
    timings_s: dict[str, Number] = {}


def to_json(report: Report) -> str:
    """The text of report.json, UTF-8, indented; NaN and infinities are null."""
    return report.model_dump_json(by_alias=True, indent=2) + "\n"


def read(path: Path) -> Report:
    """The report in the file at `path`. Raises InputError where it is missing, or not a report of schema 1."""
    try:
        return Report.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}", "name a report.json") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InputError(f"{path}: not a report of schema 1: {place}: {first['msg']}", "run `qcompress prune` again") from error
