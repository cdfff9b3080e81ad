"""One network with one seed's images: all that the ways of choosing share, computed once."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, cast

import numpy as np
import torch
from selection_networks import NETWORKS
from torch import Tensor, nn

from qcompress import loading, pipeline, scoring, surgery
from qcompress.alignment import Alignment
from qcompress.asking import asked
from qcompress.budgets import Budget
from qcompress.data.images import CalibrationCrops, Pair, ReportImages, SelectionCrops
from qcompress.frozen import answer
from qcompress.groups import Groups
from qcompress.metrics import Metric
from qcompress.pipeline import Job
from qcompress.progress import SILENT
from qcompress.recover import has_batchnorm, reestimate_batchnorm
from qcompress.recover.choice import mean_metric
from qcompress.scores import Scores
from qcompress.selection import Selection
from qcompress.settings import DataOptions, Settings

__all__ = ["Bench", "Options", "Pass", "Timed", "open_bench"]

Pass = Literal["activations", "gradients"]
"""Over the calibration crops: forward; forward and backward."""

T = TypeVar("T")
TRACED = 64  # side of the input at which costs are counted: shares hardly depend on it


@dataclass(frozen=True)
class Options:
    """Of all cells of a run. Numbers of images and crops are the tool's own where they are None.

    pixels  in one pass over calibration or selection crops, which may need gradients; over report images four times as many
    """

    folder: Path
    device: str = "cpu"
    calibration_crops: int | None = None
    selection_crops: int | None = None
    report_images: int | None = None
    pixels: int = 8 * 96 * 96
    bias: bool = False


@dataclass(frozen=True)
class Timed(Generic[T]):
    """A value, and the seconds that it took to compute."""

    value: T
    seconds: float


@dataclass(frozen=True, eq=False)
class Bench:
    """What a way of choosing may use: everything of `job` but its report images. `job.model` is the network to start from.

    Statistics of BatchNorm alone can move a network by more than pruning does. `job.model` has those of the checkpoint or those
    re-estimated on the calibration crops, whichever the metric prefers on the selection crops, so that no way is credited with
    that step.

    report      inputs and targets of the report images, stacked by size, on the device
    dense       the metric of `job.model` on the report images
    given       the same of the checkpoint as it came
    """

    name: str
    options: Options
    job: Job
    calibration: CalibrationCrops
    selection: SelectionCrops
    report: tuple[tuple[Tensor, Tensor], ...]
    dense: float
    given: float
    _kept: dict[str, Timed[Any]] = field(default_factory=dict)

    @property
    def groups(self) -> Groups:
        """Its coupled groups."""
        return self.job.groups

    @property
    def metric(self) -> Metric:
        """What is reported; `metric.chooser` is what choices go by."""
        return self.job.metric

    @property
    def batch(self) -> int:
        """Crops in one pass."""
        return _batch(self.calibration.inputs, self.options.pixels)

    def once(self, key: str, make: Callable[[], T]) -> Timed[T]:
        """What `make` returns: computed the first time, kept under `key`, with the seconds of that time."""
        if key not in self._kept:
            began = self.clock()
            value = make()
            self._kept[key] = Timed(value, self.clock() - began)
        return cast("Timed[T]", self._kept[key])

    def clock(self) -> float:
        """Seconds, once the device has done what it was given."""
        return _clock(self.options.device)

    @property
    def scores(self) -> Scores:
        """The tool's scores on the calibration crops."""
        return self._scored[0]

    @property
    def pass_seconds(self) -> Mapping[Pass, float]:
        """Of the two passes behind the scores, one forward and one forward and backward."""
        return self._scored[1]

    @cached_property
    def _scored(self) -> tuple[Scores, Mapping[Pass, float]]:
        job, batch, began = self.job, self.batch, self.clock()
        halfway = [began]

        def watch(done: float, note: str = "") -> None:
            if done <= 0.5:  # the first half is the forward pass
                halfway.append(self.clock())

        scores = scoring.score(job.model, job.groups, self.calibration, job.metric.loss, batch=batch, progress=watch)
        return scores, {"activations": halfway[-1] - began, "gradients": self.clock() - halfway[-1]}

    def asked(self, sparsity: float, align: int) -> tuple[Budget, Alignment]:
        """The count of units to remove, and the counts per group that are allowed. Raises UsageError where they do not go."""
        search = replace(self.job.settings.search, align=align)
        return asked(self.groups, replace(self.job.settings, sparsity=sparsity, search=search))

    def cut(self, selection: Selection) -> nn.Module:
        """The network without the units of `selection`."""
        return surgery.slim(self.job.model, self.groups.cuts(selection))

    def reported(self, model: nn.Module, metric: Metric | None = None) -> float:
        """The metric (or another) of `model` on the report images."""
        return _reported(model, self.report, metric or self.metric, self.options.pixels)

    def chosen_by(self, model: nn.Module) -> float:
        """What choices go by, of `model` on the selection crops; higher is better."""
        return _signed(model, self.selection, self.metric.chooser, self.options.pixels)


def open_bench(name: str, options: Options, seed: int) -> Bench:
    """Loads and traces the network, deals its images by the seed, and settles what it starts from."""
    if str(options.folder) not in sys.path:
        sys.path.append(str(options.folder))  # where the networks that are not recognised have their code
    network = NETWORKS[name]
    checkpoint = loading.load(network.path(options.folder), arch=network.arch)
    images = network.images(options.folder, checkpoint, seed)
    data = DataOptions(calibration_crops=options.calibration_crops, selection_crops=options.selection_crops)
    settings = Settings(seed=seed, device=options.device, data=data)
    job = pipeline.prepare(checkpoint, settings, SILENT, size=TRACED, images=images)
    calibration, selection = job.calibration(), job.selection()
    report = _stacked(_some(job.splits.report, options.report_images), options.device)
    given = dense = _reported(job.model, report, job.metric, options.pixels)
    if has_batchnorm(job.model):
        restated = reestimate_batchnorm(job.model, calibration, _batch(calibration.inputs, options.pixels))
        before, after = (_signed(model, selection, job.metric, options.pixels) for model in (job.model, restated))
        if after > before:
            job = replace(job, model=restated)
            dense = _reported(restated, report, job.metric, options.pixels)
    return Bench(name, options, job, calibration, selection, report, dense, given)


def _clock(device: str) -> float:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _batch(images: Tensor, pixels: int) -> int:
    """How many of `images` (N, C, H, W) make so many pixels; at least one."""
    return max(1, pixels // images[0, 0].numel())


def _some(images: ReportImages, count: int | None) -> tuple[Pair, ...]:
    """`count` of them, spread evenly; all for None."""
    pairs = images.pairs
    places = range(len(pairs)) if count is None else np.unique(np.linspace(0, len(pairs) - 1, count).astype(int)).tolist()
    return tuple(pairs[place] for place in places)


def _stacked(pairs: tuple[Pair, ...], device: str) -> tuple[tuple[Tensor, Tensor], ...]:
    by_size: dict[tuple[int, ...], list[Pair]] = {}
    for pair in pairs:
        by_size.setdefault(pair.input.shape, []).append(pair)
    return tuple(
        (
            torch.from_numpy(np.stack([pair.input for pair in alike])).to(device),
            torch.from_numpy(np.stack([pair.target for pair in alike])).to(device),
        )
        for alike in by_size.values()
    )


def _reported(model: nn.Module, report: tuple[tuple[Tensor, Tensor], ...], metric: Metric, pixels: int) -> float:
    with torch.inference_mode():
        evidence = [
            metric.evidence_of(answer(model, x), y)
            for inputs, targets in report
            for x, y in zip(*(torch.split(part, _batch(inputs, 4 * pixels)) for part in (inputs, targets)), strict=True)
        ]
    return metric.overall(np.concatenate(evidence))


def _signed(model: nn.Module, crops: SelectionCrops, metric: Metric, pixels: int) -> float:
    value = mean_metric(model, crops, metric, _batch(crops.inputs, pixels))
    return value if metric.higher_is_better else -value
