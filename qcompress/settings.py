"""Everything a user can set for a run, with its default. One frozen value; the command line is a thin shell over it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from qcompress.errors import UsageError
from qcompress.qubo import Hybrid, Objective

__all__ = [
    "CheckpointOptions",
    "DataOptions",
    "ExportOptions",
    "Limits",
    "RecoverLevel",
    "RefineOptions",
    "SearchOptions",
    "Settings",
    "VerifyOptions",
]

RecoverLevel = Literal["none", "bias", "lstsq"]


@dataclass(frozen=True)
class CheckpointOptions:
    """How to read the checkpoint: `arch` names a known architecture or `package.module:factory`, `arch_args` its arguments."""

    arch: str | None = None
    arch_args: Mapping[str, Any] | None = None
    trust_pickle: bool = False


@dataclass(frozen=True)
class DataOptions:
    """Where the images come from (None: the photographs that ship), their noise where only clean ones are given, how many."""

    source: Path | None = None
    noise: str | None = None
    max_images: int = 64
    calibration_crops: int = 48
    selection_crops: int = 16
    crop: int = 96

    def __post_init__(self) -> None:
        for name in ("max_images", "calibration_crops", "selection_crops", "crop"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class SearchOptions:
    """How the units are chosen: what is minimised, by which solver, which layers are out of bounds.

    Kept counts are multiples of `align`; None is the largest block of 16, 8, 4 or 1 that meets the budget exactly.
    """

    objective: Objective = field(default_factory=Hybrid)
    backend: str = "neal"
    reads: int = 32
    align: int | None = None
    ignore: tuple[str, ...] = ()
    floor: int = 1

    def __post_init__(self) -> None:
        if self.floor < 1:
            raise UsageError(f"the floor of units per group must be at least 1, got {self.floor}")
        if self.align is not None and self.align < 1:
            raise UsageError(f"align must be at least 1, got {self.align}", "1 allows every number of channels")
        if self.reads < 1:
            raise UsageError(f"reads must be at least 1, got {self.reads}")


@dataclass(frozen=True)
class RefineOptions:
    """How long the choice is tuned against the true metric (0 evaluations: not at all), and what proposes the candidates."""

    evaluations: int = 200
    proposer: str = "tensor-train"

    def __post_init__(self) -> None:
        if self.evaluations < 0:
            raise UsageError(f"refine evaluations must be 0 or more, got {self.evaluations}")


@dataclass(frozen=True)
class ExportOptions:
    """How the ONNX file is written: its opset, and whether batch, height and width may vary where the network allows it."""

    opset: int = 18
    dynamic: bool = True


@dataclass(frozen=True)
class VerifyOptions:
    """How latency is measured: threads of onnxruntime, input side in pixels, seconds at most."""

    threads: int = 1
    size: int = 256
    max_seconds: float = 20.0


@dataclass(frozen=True)
class Limits:
    """What the result must meet: metric drop at most (in the metric's unit), speedup at least."""

    max_drop: float | None = None
    min_speedup: float | None = None

    def __post_init__(self) -> None:
        for name in ("max_drop", "min_speedup"):
            value = getattr(self, name)
            if value is not None and (math.isnan(value) or value < 0):
                raise UsageError(f"{name.replace('_', '-')} must be 0 or more, got {value}")


@dataclass(frozen=True)
class Settings:
    """One run. `sparsity` is the share of the budget's capacity (filters, params or macs) to remove."""

    sparsity: float = 0.5
    budget: str = "filters"
    metric: str = "psnr"
    seed: int = 0
    device: str = "cpu"
    recover: RecoverLevel = "lstsq"
    checkpoint: CheckpointOptions = CheckpointOptions()
    data: DataOptions = DataOptions()
    search: SearchOptions = field(default_factory=SearchOptions)
    refine: RefineOptions = RefineOptions()
    export: ExportOptions = ExportOptions()
    verify: VerifyOptions = VerifyOptions()
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"seed must be in 0..2^63-1, got {self.seed}")
        if not 0 <= self.sparsity < 1:  # nan fails too
            raise UsageError(f"sparsity must be at least 0 and below 1, got {self.sparsity}", "0.5 removes half of the filters")
        if self.recover not in ("none", "bias", "lstsq"):
            raise UsageError(f"unknown recovery {self.recover!r}", "one of none, bias, lstsq")
