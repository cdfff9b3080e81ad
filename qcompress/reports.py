"""The schema of report.json: everything a run found, in plain values. Its keys are stable within a schema number."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from qcompress.errors import InputError

__all__ = [
    "BlockCost",
    "Cached",
    "CheckpointFacts",
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
    "SearchFacts",
    "SmallestFacts",
    "SplitBlockFacts",
    "SplitFacts",
    "SsimFacts",
    "Status",
    "StepFacts",
    "TrainingFacts",
    "TrialFacts",
    "UnitFacts",
    "WallFacts",
    "read",
    "to_json",
]

Status = Literal["ok", "threshold-missed", "undecided", "interrupted"]
_WORD = r"^[A-Za-z0-9 .%/-]*$"  # no markup
_DIGITS = 7  # significant digits that are kept of a float: more than any measurement here has


def _plain(value: object) -> object:
    """A float as JSON can hold it: finite (None otherwise), without the digits that say nothing."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None


def _encodable(value: object) -> object:
    """Text as UTF-8 can hold it: a file's name may have bytes that are no characters, which come out as escapes."""
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


Number = Annotated[float | None, BeforeValidator(_plain)]
Text = Annotated[str, BeforeValidator(_encodable)]
Cached = Literal["search", "refine", "recover", "metric", "parity", "crops"]
Scalar = bool | int | Number | str


class _Facts(BaseModel):
    """Frozen, complete, and readable from any object that has attributes of the same names."""

    model_config = ConfigDict(frozen=True, extra="forbid", from_attributes=True)


class CheckpointFacts(_Facts):
    """What was pruned. `file` is the name or path the user gave."""

    file: Text
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


class BlockCost(CostPair):
    """A cost in channels rounded up to whole blocks of `block` at both sides of every layer: what runtimes compute."""

    block: int


class Cost(_Facts):
    """Parameters, multiply-accumulates per image, bytes of the ONNX files.

    `aligned_macs` are in blocks of the alignment of the run, or of 16 channels where any number of them was allowed.
    """

    params: CostPair
    macs: CostPair
    aligned_macs: BlockCost | None = None
    bytes: CostPair


class SsimFacts(_Facts):
    """Mean SSIM over the report images."""

    dense: Number = None
    slim: Number = None
    artifact: Number = None


class PerImage(_Facts):
    """The metric per report image, in the order of `names`; null where it is infinite."""

    names: tuple[Text, ...]
    dense: tuple[Number, ...] = ()
    slim: tuple[Number, ...] = ()
    artifact: tuple[Number, ...] = ()


class MetricFacts(_Facts):
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


class WallFacts(_Facts):
    """Percentiles of the wall time of one run, milliseconds."""

    p10_ms: Number
    p50_ms: Number
    p90_ms: Number


class PredictedFacts(_Facts):
    """What the latency table says of the two networks, in milliseconds, and of which processor it is."""

    dense_ms: Number
    slim_ms: Number
    processor: Text


class LatencyFacts(_Facts):
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


class ParityFacts(_Facts):
    """The ONNX file against the PyTorch network: largest difference, and over the largest output."""

    max_abs_diff: Number
    rel: Number
    gate: Number
    passed: bool


class SplitBlockFacts(_Facts):
    """A group that was too large to go to the chip whole: `on_chip` of its `units`, the others fixed beforehand."""

    block: Text
    units: int
    on_chip: int


class ProbeFacts(_Facts):
    """Energies of one model that a machine solved: see `qcompress.solvers.account.ProbeAccount`."""

    start: Number
    raw: Number
    polished: Number
    classical: Number
    chain_break_fraction: Number = None
    access_s: Number


class QpuFacts(_Facts):
    """What a backend elsewhere did and what it cost: see `qcompress.solvers.account.Account`.

    `classical_energy` is what the default backend reaches here, at the same capacity of the same problem.
    """

    backend: str
    solver: Text
    topology: Text | None = None
    graph_id: Text | None = None
    blocks: int
    split: tuple[SplitBlockFacts, ...] = ()
    largest_on_chip: int | None = None
    submissions: int
    reads: int
    qubits: int | None = None
    longest_chain: int | None = None
    chain_break_fraction: Number = None
    estimated_s: Number
    access_s: Number
    spin_reversals: int = 0
    bits: int | None = None
    coefficient_error: Number = None
    precision_loss: Number = None
    probes: tuple[ProbeFacts, ...] = ()
    classical_energy: Number = None


class SearchFacts(_Facts):
    """How the units were chosen; `trace` is one record per step.

    `asked` is the capacity that the budget wants, `capacity` what the search's selection frees; kept counts are multiples of
    `align`. No such selection has an energy below `lower_bound`; `relative_gap` is 0 where the search's is proven the best, 1
    where nothing is proven (see `qcompress.search_certificate.Certificate`); `exact_groups` were enumerated.
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
    relative_gap: Number = None
    exact_groups: int | None = None
    trace: tuple[dict[str, Scalar], ...] = ()
    qpu: QpuFacts | None = None


class TrialFacts(_Facts):
    """A network at a share of the budget: see `qcompress.bisection.Trial`."""

    share: Number
    capacity: int
    params: int
    macs: int
    drop: Number
    margin: Number
    within: bool


class SmallestFacts(_Facts):
    """How the smallest network within a drop was looked for, on `crops` crops of the selection images.

    A trial is within the limit where its drop and its margin together are; `share` is the largest of these, 0 without any.
    `confirmed` says whether the drop on the report images is within the limit, too.
    """

    limit: Number
    confidence: Number
    crops: int
    share: Number
    confirmed: bool
    trials: tuple[TrialFacts, ...]


class RefineFacts(_Facts):
    """What measuring candidates gained; `history` holds (evaluations spent, best so far, higher is better).

    `gain` is the improvement on the selection images in `metric`, which is in `unit`. `gain_db` is the same where that is dB;
    in reports written before there was a `gain` it is the gain in the metric of the report. `ended` says what ended it: its
    evaluations, its minutes, that nothing new was found any more, or Ctrl-C.

    `measured` holds (energy by the surrogate, value) of the candidates that were measured on every image, the start first;
    `steps` of every candidate the same less those of the best before it (see `qcompress.refine.contract.RefineResult`). The
    correlations are Spearman's, of predicted and true loss, over the one and the other (see `qcompress.rank_correlation`): only
    candidates that seem better are measured on every image, so the first says how the climb went, the second what energies
    are worth. Where `higher_is_better` is False all values are the metric negated; None where an older report does not say.
    """

    evaluations: Number
    accepted: int
    gain_db: Number = None
    gain: Number = None
    metric: str | None = None
    unit: str = ""
    higher_is_better: bool | None = None
    ended: Literal["evaluations", "minutes", "exhausted", "interrupt"] | None = None
    history: tuple[tuple[Number, Number], ...] = ()
    measured: tuple[tuple[Number, Number], ...] = ()
    steps: tuple[tuple[Number, Number], ...] = ()
    rank_correlation: Number = None
    step_correlation: Number = None


class StepFacts(_Facts):
    """One step of several before the last: units gone by then, the network repaired, and trained, as `RecoverFacts` measure."""

    pruned: int
    repaired: Number
    trained: Number = None


class TrainingFacts(_Facts):
    """The fields of `qcompress.finetune.contract.TrainResult`; the images are those of calibration where `source` is None."""

    rate: Number
    teaching: Number
    tried: tuple[tuple[Number, Number, Number], ...] = ()
    steps: int
    seconds: Number
    batch: int
    crop: int | None = None
    precision: Literal["float32", "bfloat16"]
    source: Text | None = None
    start: Number
    best: Number
    best_step: int
    history: tuple[tuple[int, Number], ...] = ()
    ended: Literal["steps", "minutes", "patience", "interrupt"]
    seed: int


class RecoverFacts(_Facts):
    """How the cut network was repaired: the `level` that was kept, and the fine-tuning after it, where there was one.

    Values are in `metric`, which is in `unit`, on crops of the selection images: `value` of the network that was kept. `steps`
    are those before the last, of a network that was pruned in several.
    """

    level: Literal["none", "bias", "lstsq"]
    batchnorm_reestimated: bool = False
    metric: str
    unit: str = ""
    value: Number = None
    training: TrainingFacts | None = None
    steps: tuple[StepFacts, ...] = ()


class SplitFacts(_Facts):
    """The images of one role: how many, of how many scenes, and a hash over their pixels."""

    images: int
    scenes: int | None = None
    sha256: str


class DataFacts(_Facts):
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


class LayerWidth(_Facts):
    """How a layer's weights are held in the ONNX file, and in how many bytes; `loss` is what that was expected to cost."""

    layer: Text
    width: Literal["float32", "float16", "int8", "int4"]
    bytes: int
    loss: Number = None


class CompressionFacts(_Facts):
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


class FileFacts(_Facts):
    """A file that was written, by its name in the output folder."""

    sha256: str
    bytes: int


class Kept(_Facts):
    """A layer that was not pruned, and why."""

    layer: str
    reason: str


class LayerFacts(_Facts):
    """A layer, in the order of execution: its channels at both sides, all and kept, and the groups that they belong to."""

    name: Text
    kind: str
    inputs: int
    kept_inputs: int
    outputs: int
    kept_outputs: int
    reads: tuple[Text, ...] = ()
    writes: tuple[Text, ...] = ()


class CropFacts(_Facts):
    """A square window of a report image, a row of the sheet: its place in the target, and the metric of the whole image."""

    name: Text
    top: int
    left: int
    dense: Number
    artifact: Number


class CropSheet(_Facts):
    """crops.png: a row for each window, `side` pixels square, a column for each of what the networks were given and returned.

    In the last column is the difference between the artifact's output and the dense one's, brightest at `brightest` (of 0..1;
    None for labels, where it marks the pixels that changed theirs).
    """

    side: int = Field(ge=1, le=512)
    columns: tuple[Literal["input", "dense", "slim", "target", "difference"], ...] = Field(min_length=1, max_length=5)
    rows: tuple[CropFacts, ...] = Field(max_length=8)
    brightest: Number = None


class Report(_Facts):
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
    files: dict[str, FileFacts] = {}
    command: Text | None = None
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
