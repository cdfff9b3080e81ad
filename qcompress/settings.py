"""Everything a user can set for a run, with its default. One frozen value; the command line is a thin shell over it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from qcompress.errors import UsageError
from qcompress.quantities import Size
from qcompress.qubo import Auto, Hybrid, Objective, Reconstruction
from qcompress.targets import UNITS, Smallest, Speedup, Target
from qcompress.widths import WIDTHS

__all__ = [
    "CheckpointOptions",
    "CompressOptions",
    "DataOptions",
    "ExportOptions",
    "FinetuneOptions",
    "Limits",
    "Optimiser",
    "RecoverLevel",
    "RefineOptions",
    "SearchOptions",
    "Settings",
    "Undecided",
    "VerifyOptions",
]

RecoverLevel = Literal["none", "batchnorm", "bias", "lstsq", "finetune"]
Undecided = Literal["report", "fail", "pass"]
Optimiser = Literal["muon", "adam"]

AS_CUT_STEPS = 6
"""Scores are taken anew so often for a network that is not repaired."""
_MINUTES = 10.0  # of fine-tuning, unless something else is set
_EVALUATIONS = 200  # of the refinement, unless something else is set


@dataclass(frozen=True)
class CheckpointOptions:
    """How to read the checkpoint: `arch` names a known architecture or `package.module:factory`, `arch_args` its arguments."""

    arch: str | None = None
    arch_args: Mapping[str, Any] | None = None
    trust_pickle: bool = False


@dataclass(frozen=True)
class DataOptions:
    """Where the images come from (None: the photographs that ship), their noise where only clean ones are given, how many.

    max_images         of each role; None: 64, of images with a class 1,000
    calibration_crops  None: 48; of images with a class 256, or more where they are small: up to 2^20 pixels in all
    selection_crops    None: 16; of images with a class the same as for calibration
    crop               side of the crops that a restored image is judged on, in pixels
    mean, std          what is subtracted from each channel (0..1) of labelled images, and what they are then divided by
    """

    source: Path | None = None
    noise: str | None = None
    max_images: int | None = None
    calibration_crops: int | None = None
    selection_crops: int | None = None
    crop: int = 96
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("max_images", "calibration_crops", "selection_crops", "crop"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1, got {value}")


@dataclass(frozen=True)
class SearchOptions:
    """How the units are chosen: what is minimised, by which solver, which layers are out of bounds.

    `selection` is a file that `solve` wrote: it takes the place of the search, and its budget, sparsity and align count.
    By patterns (fnmatch) of groups, or of layers that make their channels: `keep` is the share of units that stays at least,
    `keep_at_most` the share that stays at most, `multiple_of` the number of channels that what stays is a multiple of.
    `relinearise` is the number of steps that scores are taken anew in (None: 6 where `objective` is `Auto` and stands for the
    hybrid, else 1); an objective that is not made from scores takes 1.
    `latency_table` is a file of `qcompress profile`, for the budget latency; None: it is measured on this machine first.
    Kept counts are multiples of `align`; None is this processor's block, see `alignment.aligned_budget`.
    """

    objective: Objective = field(default_factory=Auto)
    backend: str = "profile"
    backend_options: Mapping[str, float | str | bool] = field(default_factory=dict)
    reads: int = 32
    align: int | None = None
    ignore: tuple[str, ...] = ()
    floor: int = 1
    selection: Path | None = None
    relinearise: int | None = None
    latency_table: Path | None = None
    keep: Mapping[str, float] = field(default_factory=dict)
    keep_at_most: Mapping[str, float] = field(default_factory=dict)
    multiple_of: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.floor < 1:
            raise UsageError(f"the floor of units per group must be at least 1, got {self.floor}", "1 is the least")
        if self.align is not None and self.align < 1:
            raise UsageError(f"align must be at least 1, got {self.align}", "1 allows every number of channels")
        for name, shares in (("keep", self.keep), ("keep-at-most", self.keep_at_most)):
            for pattern, share in shares.items():
                if not 0 <= share <= 1:  # nan fails too
                    raise UsageError(f"{name} {pattern}={share}: expected a share, 0 to 1", "0.75 is three quarters")
        for pattern, multiple in self.multiple_of.items():
            if multiple < 1:
                raise UsageError(f"multiple-of {pattern}={multiple}: expected at least 1", "8 keeps multiples of 8 channels")
        if self.reads < 1:
            raise UsageError(f"reads must be at least 1, got {self.reads}")
        if self.relinearise is not None and self.relinearise < 1:
            raise UsageError(f"relinearise must be at least 1, got {self.relinearise}", "1 scores the dense network only")
        if isinstance(self.objective, Reconstruction) and self.relinearise not in (None, 1):
            raise UsageError(
                f"relinearise {self.relinearise}: objective reconstruction is not made from scores", "leave it out"
            )


@dataclass(frozen=True)
class RefineOptions:
    """How long the choice is tuned against the true metric, and what proposes the candidates.

    evaluations  at most; 0: not at all; None: 200, or with `minutes` as many as they allow
    minutes      of the clock at most, whatever machine that is; they decide when to stop, never what is tried
    batch        candidates that are proposed and measured at a time; another batch is another search. 4 gained hardly less than
                 1 at equal evaluations, 8 less (docs/benchmarks.md)
    """

    evaluations: int | None = None
    proposer: str = "tensor-train"
    minutes: float | None = None
    batch: int = 4

    def __post_init__(self) -> None:
        if self.evaluations is not None and self.evaluations < 0:
            raise UsageError(f"refine evaluations must be 0 or more, got {self.evaluations}")
        if self.minutes is not None and not 0 < self.minutes < math.inf:  # nan fails too
            hint = "--refine-evals 0 refines nothing"
            raise UsageError(f"refine minutes must be finite and above 0, got {self.minutes}", hint)
        if self.batch < 1:
            raise UsageError(f"refine batch must be 1 or more, got {self.batch}")

    @property
    def most(self) -> int | None:
        """Evaluations that may be spent; None: as many as the minutes allow."""
        return _EVALUATIONS if self.evaluations is None and self.minutes is None else self.evaluations


@dataclass(frozen=True)
class CompressOptions:
    """What the ONNX file of `compress` may weigh, and how its layers may be held.

    target_size  of the file, as a share of the dense float32 one's or in bytes; None: the sparsity and the widths decide
    sparsity     share of the filters that goes, exactly; None: as many as serve the target size
    bits         names of the widths that layers may have, see `qcompress.widths`
    objective    "joint": what units and widths are measured to cost; "aqc": as formulated by Wang et al. (arXiv 2505.16332)
    coefficients of the objective, by name
    calibration  how ranges of activations are found: minmax, percentile, entropy, or auto: what is best on the selection images
    """

    target_size: Size | None = field(default_factory=lambda: Size(share=0.25))
    sparsity: float | None = None
    bits: tuple[str, ...] = WIDTHS
    objective: str = "joint"
    coefficients: Mapping[str, float] = field(default_factory=dict)
    calibration: str = "auto"

    def __post_init__(self) -> None:
        if self.objective not in ("joint", "aqc"):
            raise UsageError(f"objective {self.objective!r} does not choose widths", "joint or aqc; the others are for prune")
        if self.calibration not in ("auto", "minmax", "percentile", "entropy"):
            raise UsageError(f"calibration {self.calibration!r} is not known", "auto, minmax, percentile or entropy")
        if self.target_size is None and self.sparsity is None:
            raise UsageError("neither a target size nor a sparsity is given", "--target-size 0.25 makes a file of a quarter")
        if self.sparsity is not None and not 0 <= self.sparsity < 1:
            raise UsageError(f"sparsity must be at least 0 and below 1, got {self.sparsity}")
        if not self.bits or set(self.bits) - set(WIDTHS):
            raise UsageError(f"widths {', '.join(self.bits) or 'none'}: expected some of {', '.join(WIDTHS)}")


@dataclass(frozen=True)
class FinetuneOptions:
    """How long the repaired network is trained, in one of three measures (default: 10 minutes), and how.

    minutes   of the clock; an interrupted run goes on with what is left of them
    steps     of the optimiser; an interrupted run ends where one that was not does
    epochs    as many steps as show so many times the pixels of all training images (or all images with a class)
    rate      the highest learning rate; None: the best of a few, by short trials judged as the result is
    batch     crops of one step; None: 8, or 32 images with a class
    crop      their side in pixels of the input; None: 64, or 48 for super-resolution
    teaching  share of the loss that comes from the dense network's outputs; None: 1, 0.5 or 0, by trial
    source    a folder or .npz file of more images, as for `DataOptions`, that are trained on instead of the calibration images
    optimiser "muon": Muon for weights that are matrices, Adam for the rest; or "adam" for all
    """

    minutes: float | None = None
    steps: int | None = None
    epochs: float | None = None
    rate: float | None = None
    batch: int | None = None
    crop: int | None = None
    teaching: float | None = None
    source: Path | None = None
    optimiser: Optimiser = "muon"

    def __post_init__(self) -> None:
        lengths = {"minutes": self.minutes, "steps": self.steps, "epochs": self.epochs}
        given = [name for name, value in lengths.items() if value is not None]
        if len(given) > 1:
            raise UsageError(f"fine-tuning for {' and '.join(given)}, expected one of them", "its length has one measure")
        for name, value in (lengths | {"learning rate": self.rate, "batch": self.batch, "crop": self.crop}).items():
            if value is not None and not 0 < value < math.inf:  # nan fails too
                hint = (
                    f"without it, {_MINUTES:g} minutes; --recover lstsq trains nothing" if name in lengths else "leave it out"
                )
                raise UsageError(f"fine-tuning {name} must be finite and above 0, got {value}", hint)
        if self.optimiser not in get_args(Optimiser):
            raise UsageError(f"optimiser {self.optimiser!r} is not known, expected {' or '.join(get_args(Optimiser))}")
        if self.teaching is not None and not 0 <= self.teaching <= 1:
            raise UsageError(f"teaching must be in 0..1, got {self.teaching}", "1 learns from the dense network alone")

    @property
    def seconds(self) -> float | None:
        """Of the clock; None where it is not the measure."""
        if self.steps is not None or self.epochs is not None:
            return None
        return 60 * (_MINUTES if self.minutes is None else self.minutes)


@dataclass(frozen=True)
class ExportOptions:
    """How a file is written: the ONNX opset, whether batch, height and width may vary where the network allows it.

    `weights` is the type that they are stored in, float32 or float16. `pad`: any size works, by padding inside the graph.
    """

    opset: int = 18
    dynamic: bool = True
    weights: Literal["float32", "float16"] = "float32"
    pad: bool = False


@dataclass(frozen=True)
class VerifyOptions:
    """How a file is run and timed: threads, input side in pixels, seconds at most, and one of RUNTIMES.

    Without a size it is 256, for a classifier that of its images; with one, images with a class are resized to it. Without a
    runtime it is the first that opens files of that ending.
    """

    threads: int = 1
    size: int | None = None
    max_seconds: float = 20.0
    runtime: str | None = None


@dataclass(frozen=True)
class Limits:
    """What the result must meet: metric drop at most (in the metric's unit), speedup at least, bytes of the file at most.

    `undecided` says what becomes of a speedup whose confidence interval contains its limit: "report" makes it an outcome of its
    own, neither passed nor failed. `drop_unit`, "dB" or "points", is what the drop was given in: with a metric whose
    differences have another unit the run is refused.
    """

    max_drop: float | None = None
    min_speedup: float | None = None
    max_size: int | None = None
    undecided: Undecided = "report"
    drop_unit: str = ""

    def __post_init__(self) -> None:
        for name in ("max_drop", "min_speedup", "max_size"):
            value = getattr(self, name)
            if value is not None and (math.isnan(value) or value < 0):
                hint = "0 allows no drop at all" if name == "max_drop" else "leave it out for no limit"
                raise UsageError(f"{name.replace('_', '-')} must be 0 or more, got {value}", hint)


@dataclass(frozen=True)
class Settings:
    """One run. `sparsity` is the share of the capacity of the budget to remove; a `target` takes its place.

    With `Smallest` the share is looked for, within the limit of the drop.

    The budget is filters, params, macs, size (bytes of the ONNX file) or latency. `plots`: with pictures; `crops`: with windows
    of report images in report.html.

    The metric "auto" is that of the task: PSNR for restoration, top-1 accuracy for classes, mean IoU for masks.
    `workers` share scoring and refinement: processes of this machine, or actors of the Ray cluster at `ray` (None: as many as
    it has room for). None: this process, in as many threads as torch takes; 1: this process, in one thread. The result is the
    same for every number from 1. In the folder `cache` what a run found is kept, and an unchanged run only measures its speed.
    With `steps` above 1 the share is removed in so many steps, each of which scores, selects, removes and recovers anew.
    """

    sparsity: float = 0.5
    budget: str = "filters"
    target: Target | None = None
    metric: str = "auto"
    seed: int = 0
    device: str = "cpu"
    workers: int | None = None
    ray: str | None = None
    recover: RecoverLevel = "lstsq"
    finetune: FinetuneOptions = FinetuneOptions()
    steps: int = 1
    checkpoint: CheckpointOptions = CheckpointOptions()
    data: DataOptions = DataOptions()
    search: SearchOptions = field(default_factory=SearchOptions)
    refine: RefineOptions = RefineOptions()
    export: ExportOptions = ExportOptions()
    verify: VerifyOptions = VerifyOptions()
    limits: Limits = Limits()
    compress: CompressOptions = field(default_factory=CompressOptions)
    plots: bool = False
    crops: bool = True
    cache: Path | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"seed must be in 0..2^63-1, got {self.seed}")
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"workers must be at least 1, got {self.workers}", "1 is this process")
        if not 0 <= self.sparsity < 1:  # nan fails too
            raise UsageError(f"sparsity must be at least 0 and below 1, got {self.sparsity}", "0.5 removes half of the filters")
        if self.budget not in UNITS:
            raise UsageError(f"budget {self.budget!r} is unknown, expected one of {', '.join(UNITS)}")
        if self.target is not None and self.budget == "filters" and not isinstance(self.target, Smallest):
            raise UsageError(f"{self.target} is a target of a cost, the budget is filters", "params, macs, size or latency")
        if isinstance(self.target, Speedup) and self.budget != "latency":
            raise UsageError(f"{self.target} is a target of latency, the budget is {self.budget}", 'budget="latency"')
        if self.recover not in get_args(RecoverLevel):
            raise UsageError(f"unknown recovery {self.recover!r}", f"one of {', '.join(get_args(RecoverLevel))}")
        if self.finetune != FinetuneOptions() and self.recover != "finetune":
            raise UsageError(f"options of fine-tuning, but recover is {self.recover}", "--recover finetune")
        if self.search.latency_table is not None and self.budget != "latency":
            raise UsageError(f"a latency table is given, but the budget is {self.budget}", "--budget latency, or leave it out")
        self._check_steps()

    def _check_steps(self) -> None:
        if self.steps < 1:
            raise UsageError(f"steps must be at least 1, got {self.steps}", "1 removes everything at once")
        if self.steps > 1 and self.search.selection is not None:
            raise UsageError(f"steps {self.steps}: a selection that was found elsewhere is one step", "leave --steps out")

    @property
    def repair(self) -> Literal["none", "batchnorm", "bias", "lstsq"]:
        """The level without training: what fine-tuning begins with is the best that there is."""
        return "lstsq" if self.recover == "finetune" else self.recover

    def resolved(self, task: str = "denoising") -> Settings:
        """The same with the objective and the steps that `Auto` and None stand for, for a network of this task.

        What is lost after a repair is the better guide for images. For classes it was not: `Hybrid` is (docs/benchmarks.md).
        """
        search = self.search
        if isinstance(search.objective, Auto):
            repaired = self.repair == "lstsq"
            chosen: Objective = Reconstruction() if repaired and task != "classification" else Hybrid()
            steps = search.relinearise or (1 if repaired else AS_CUT_STEPS)
            search = replace(search, objective=chosen, relinearise=steps)
        return replace(self, search=replace(search, relinearise=search.relinearise or 1))
