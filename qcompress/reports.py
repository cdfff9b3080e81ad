"""The schema of report.json: everything a run found, in plain values. Its keys are stable within a schema number."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field, ValidationError

from qcompress.errors import InputError
from qcompress.report_crops import ClassFacts, CropFacts, CropSheet
from qcompress.report_search import (
    ProbeFacts,
    QpuFacts,
    RecoverFacts,
    RefineFacts,
    SearchFacts,
    SmallestFacts,
    SplitBlockFacts,
    StepFacts,
    TrainingFacts,
    TrialFacts,
)
from qcompress.report_values import Facts, Number, Text

__all__ = [
    "BlockCost",
    "Cached",
    "CheckpointFacts",
    "ClassFacts",
    "CompressionFacts",
    "Cost",
    "CostPair",
    "CropFacts",
    "CropSheet",
    "DataFacts",
    "FileFacts",
    "GroupUnits",
    "Kept",
    "LatencyFacts",
    "LayerFacts",
    "LayerWidth",
    "MetricFacts",
    "ParityFacts",
    "PerImage",
    "PredictedFacts",
    "ProbeFacts",
    "QpuFacts",
    "RecoverFacts",
    "RefineFacts",
    "Report",
    "RoundFacts",
    "SearchFacts",
    "SmallestFacts",
    "SplitBlockFacts",
    "SplitFacts",
    "SsimFacts",
    "Status",
    "StepFacts",
    "TargetFacts",
    "TrainingFacts",
    "TrialFacts",
    "UnitFacts",
    "WallFacts",
    "read",
    "to_json",
]

Status = Literal["ok", "threshold-missed", "undecided", "interrupted"]
_WORD = r"^[A-Za-z0-9 .%/-]*$"  # no markup


Cached = Literal["search", "refine", "recover", "metric", "parity", "crops"]


class CheckpointFacts(Facts):
    """What was pruned. `file` is the name or path the user gave."""

    file: Text
    sha256: str
    architecture: str


class GroupUnits(Facts):
    """Units of one group: all, and those that went."""

    total: int
    pruned: int


class UnitFacts(Facts):
    """Units of the network; `per_group` in model order."""

    total: int
    pruned: int
    per_group: dict[str, GroupUnits]


class CostPair(Facts):
    """A cost before and after; None where it was not measured."""

    dense: int | None
    slim: int | None


class BlockCost(CostPair):
    """A cost in channels rounded up to whole blocks of `block` at both sides of every layer: what runtimes compute."""

    block: int


class Cost(Facts):
    """Parameters, multiply-accumulates per image, bytes of the ONNX files.

    `aligned_macs` are in blocks of the alignment of the run, or of 16 channels where any number of them was allowed.
    """

    params: CostPair
    macs: CostPair
    aligned_macs: BlockCost | None = None
    bytes: CostPair


class SsimFacts(Facts):
    """Mean SSIM over the report images."""

    dense: Number = None
    slim: Number = None
    artifact: Number = None


class PerImage(Facts):
    """The metric per report image, in the order of `names`; null where it is infinite."""

    names: tuple[Text, ...]
    dense: tuple[Number, ...] = ()
    slim: tuple[Number, ...] = ()
    artifact: tuple[Number, ...] = ()


class MetricFacts(Facts):
    """Means over `images` report images.

    In this order: the noisy input, or that of super-resolution enlarged bicubically (labelled images have neither), the dense
    network, the network masked with the selection of the search, and with the refined one, the slim network after repair, and
    the ONNX file. `higher_is_better` is None in reports that were written before there was such a field.
    """

    name: str = Field(pattern=_WORD)
    unit: str = Field(pattern=_WORD)
    higher_is_better: bool | None = None
    images: int
    noisy: Number = None
    bicubic: Number = None
    dense: Number
    selected: Number = None
    refined: Number = None
    slim: Number = None
    artifact: Number = None
    ssim: SsimFacts | None = None
    per_image: PerImage | None = None


class WallFacts(Facts):
    """Percentiles of the wall time of one run, milliseconds."""

    p10_ms: Number
    p50_ms: Number
    p90_ms: Number


class PredictedFacts(Facts):
    """What the latency table says of the two networks, in milliseconds, and of which processor it is.

    `elsewhere`: the table is of another machine than the one that measured the rest.
    """

    dense_ms: Number
    slim_ms: Number
    processor: Text
    elsewhere: bool = False


class LatencyFacts(Facts):
    """The fields of `qcompress.latency.Latency`, and what was predicted where the budget was one of latency."""

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
    predicted: PredictedFacts | None = None


class RoundFacts(Facts):
    """A choice that was timed before it was refined: see `qcompress.rounds.Round`. Values are in the unit of the target.

    `allowed` is what the table was to predict at least (times as fast) or at most (ms). `correction` is measured over predicted
    time: what the target is divided by for the next choice, where this one missed or overshot it. Milliseconds are of the dense
    network's median over all rounds up to then. `looks`: how often it was timed; `kept`: what the run prunes to.
    """

    allowed: Number
    predicted: Number
    measured: Number
    ci95: tuple[Number, Number]
    runs: int
    correction: Number
    reached: Literal["met", "missed", "undecided"]
    looks: int = 1
    kept: bool = False


class TargetFacts(Facts):
    """A target of latency, and whether the ONNX file that was written reaches it, by its 95 % interval.

    `rounds` are the choices that led to it; `skipped` says why none was timed, `ended` why no further one was made.
    """

    unit: Literal["times", "ms"]
    asked: Number
    measured: Number
    ci95: tuple[Number, Number]
    reached: Literal["met", "missed", "undecided"]
    rounds: tuple[RoundFacts, ...] = ()
    skipped: Text | None = None
    ended: Text | None = None


class ParityFacts(Facts):
    """The ONNX file against the PyTorch network: largest difference, and over the largest output."""

    max_abs_diff: Number
    rel: Number
    gate: Number
    passed: bool


class SplitFacts(Facts):
    """The images of one role: how many, of how many scenes, and a hash over their pixels."""

    images: int
    scenes: int | None = None
    sha256: str


class DataFacts(Facts):
    """Where the images came from and who saw which; the `scale` of super-resolution, what inputs were normalised by.

    `size` is the side to which images with a class were resized, None where they were left as they are.
    """

    source: Text
    task: Literal["denoising", "super-resolution", "classification", "segmentation"] = "denoising"
    scale: int = 1
    size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    calibration: SplitFacts
    selection: SplitFacts
    report: SplitFacts


class LayerWidth(Facts):
    """How a layer's weights are held in the ONNX file, and in how many bytes; `loss` is what that was expected to cost.

    `integer` says whether the layer computes in integers; None in reports that were written before there was such a field.
    """

    layer: Text
    width: Literal["float32", "float16", "int8", "int4"]
    bytes: int
    integer: bool | None = None
    loss: Number = None


class CompressionFacts(Facts):
    """Joint pruning and quantisation. Sizes are in bytes of the ONNX file.

    `target` is what was asked for (None: no size was), `simulation_db` how far integer arithmetic in onnxruntime is from the
    same file computed literally, `calibration` how the ranges of activations were found. `pruning_loss` and `width_loss` are
    the two parts of the energy that was minimised, `greedy_loss` what the greedy choice of the same size costs by it,
    `lower_bound` what no choice from the same losses undercuts. `int8` says what this machine's processor has for integers.
    """

    target: int | None = None
    size: int
    bits: tuple[str, ...]
    layers: tuple[LayerWidth, ...]
    calibration: str | None = None
    steps: tuple[Text, ...] = ()
    simulation_db: Number = None
    pruning_loss: Number = None
    width_loss: Number = None
    greedy_loss: Number = None
    lower_bound: Number = None
    int8: Text


class FileFacts(Facts):
    """A file that was written, by its name in the output folder."""

    sha256: str
    bytes: int


class Kept(Facts):
    """A layer that was not pruned, and why."""

    layer: str
    reason: str


class LayerFacts(Facts):
    """A layer, in the order of execution: its channels at both sides, all and kept, and the groups that they belong to."""

    name: Text
    kind: str
    inputs: int
    kept_inputs: int
    outputs: int
    kept_outputs: int
    reads: tuple[Text, ...] = ()
    writes: tuple[Text, ...] = ()


class Report(Facts):
    """One run. What was not reached (an interrupted run) or not asked for is None.

    `reasons` are the limits that were missed or could not be decided, `notes` what else the user should know; `command`
    reproduces the run. `cached` are the fields that an earlier, equal run found (`--cache`); the others are of this one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", from_attributes=True, validate_by_name=True, validate_by_alias=True)

    schema_number: Literal[1] = Field(1, alias="schema")
    status: Status
    reasons: tuple[Text, ...] = ()
    notes: tuple[Text, ...] = ()
    checkpoint: CheckpointFacts
    units: UnitFacts
    kept_whole: tuple[Kept, ...] = ()
    cost: Cost
    metric: MetricFacts
    latency: LatencyFacts | None = None
    target: TargetFacts | None = None
    parity: ParityFacts | None = None
    search: SearchFacts
    smallest: SmallestFacts | None = None
    refine: RefineFacts | None = None
    compression: CompressionFacts | None = None
    recover: RecoverFacts | None = None
    data: DataFacts
    layers: tuple[LayerFacts, ...] = ()
    crops: CropSheet | None = None
    cached: tuple[Cached, ...] = ()
    files: dict[str, FileFacts] = Field(default={})
    command: Text | None = None
    seed: int
    versions: dict[str, str]
    timings_s: dict[str, Number] = Field(default={})


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
