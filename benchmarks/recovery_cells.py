"""One cell of the recovery benchmark: network, way of pruning and seed; and what is recorded of it."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from pydantic import Field
from recovery_peers import PEERS, Pruned, pruned
from selection_bench import Bench
from selection_cells import Outcome
from torch import nn

from qcompress import finetuning, gradual, pipeline, surgery, tracing
from qcompress.groups import Groups
from qcompress.pipeline import Job
from qcompress.recover.choice import Recovered, mean_metric
from qcompress.settings import FinetuneOptions, Optimiser, RefineOptions

__all__ = ["CLEAN", "WAYS", "Effort", "Record", "Trained"]

CLEAN = frozenset({"dncnn25-gray", "reference"})
"""Networks whose images are clean ones with white noise of sigma 25, which training may draw anew, as the tool does."""

_OURS: Mapping[str, tuple[int, bool]] = MappingProxyType(
    {"qcompress": (1, True), "qcompress, not refitted": (1, False), "qcompress, 3 steps": (3, True)}
)
"""Pruning steps, and whether layers are refitted by least squares before they are trained."""

WAYS = (*_OURS, *PEERS)
"""The ways of pruning that are compared."""


@dataclass(frozen=True)
class Effort:
    """What is the same for all ways: the share of the MACs that goes, and the training."""

    sparsity: float = 0.5
    steps: int = 2000
    batch: int = 8
    rate: float | None = None
    teaching: float | None = None
    optimiser: Optimiser = "muon"

    @property
    def options(self) -> FinetuneOptions:
        """As the tool takes them."""
        return FinetuneOptions(
            steps=self.steps, batch=self.batch, rate=self.rate, teaching=self.teaching, optimiser=self.optimiser
        )


class Record(Outcome):
    """A cell, measured on the report images: `dense`, the network as `started`, before training, and `trained`.

    started       None where there was training before
    images        how many report, and how many crops calibrate and select; empty in records from before this was kept
    macs, params  shares of the dense network's that are left
    training      what the tool reports of it
    sparse_steps  of a training before the pruning, which only some ways have: they come on top
    """

    network: str
    way: str
    seed: int
    effort: dict[str, float | str | None]
    metric: str = ""
    unit: str = ""
    device: str = ""
    images: dict[str, int] = Field(default_factory=dict)
    macs: float = 0.0
    params: float = 0.0
    dense: float = 0.0
    started: float | None = None
    trained: float = 0.0
    sparse_steps: int = 0
    training: dict[str, Any] = Field(default_factory=dict)
    seconds: dict[str, float] = Field(default_factory=dict)


@dataclass(frozen=True)
class Trained:
    """What identifies a record."""

    network: str
    way: str
    seed: int
    effort: Effort

    def path(self, out: Path) -> Path:
        """The file of its record in the folder `out`."""
        way = re.sub(r"[^a-z0-9.]+", "-", self.way.lower()).strip("-")
        effort = f"{self.effort.sparsity:g}_{self.effort.steps}x{self.effort.batch}_{self.effort.optimiser}"
        given = {"rate": self.effort.rate, "teaching": self.effort.teaching}
        untried = "".join(f"_{name}{value:g}" for name, value in given.items() if value is not None)
        return out / self.network / f"{way}_{effort}{untried}_seed{self.seed}.json"

    def failure(self, reason: str) -> Record:
        """The record of a cell that could not be measured."""
        return Record(failed=reason, **self._named())

    def _named(self) -> dict[str, Any]:
        return {"network": self.network, "way": self.way, "seed": self.seed, "effort": dataclasses.asdict(self.effort)}

    def measure(self, bench: Bench) -> Record:
        """Prunes, reports, trains, reports. Raises whatever fails."""
        job, began = self._job(bench), bench.clock()
        if self.way in _OURS and _OURS[self.way][0] > 1:
            return self._in_steps(bench, job, began)
        ours = self.way in _OURS
        cut = Pruned(self._ours(job), 0) if ours else pruned(bench, job, self.way)
        value = mean_metric(cut.model, job.judging(), job.metric.chooser)
        start = Recovered(cut.model, "lstsq" if ours else "none", False, (), "", value)
        chosen = bench.clock()
        found = finetuning.finetuned(job, start, dense=job.model)
        seconds = {"prune": chosen - began, "train": bench.clock() - chosen}
        return self._record(bench, found, bench.reported(cut.model), seconds, cut.sparse_steps)

    def _job(self, bench: Bench) -> Job:
        """The bench's, with the settings of this cell."""
        job, steps = bench.job, _OURS.get(self.way, (1, True))[0]
        data = replace(job.settings.data, noise="gaussian:25") if self.network in CLEAN else job.settings.data
        source = replace(job.frame.source, content="clean") if self.network in CLEAN else job.frame.source
        settings = replace(
            job.settings,
            sparsity=self.effort.sparsity,
            budget="macs",
            recover="finetune",
            finetune=self.effort.options,
            steps=steps,
            data=data,
            search=replace(job.settings.search, align=1),
            refine=RefineOptions(0),
        )
        return replace(job, settings=settings, frame=replace(job.frame, source=source))

    def _ours(self, job: Job) -> nn.Module:
        """Chosen by the default objective; refitted where the way wants it."""
        choice = pipeline.choose(job)
        if _OURS[self.way][1]:
            return pipeline.repair(job, choice)[1].model
        return surgery.slim(job.model, job.groups.cuts(choice.kept))

    def _in_steps(self, bench: Bench, job: Job, began: float) -> Record:
        """Trained as long in all; what it started from is not comparable, since it was trained before."""
        _, found = gradual.decided(job, job.asked, pipeline.choose, pipeline.repair)
        return self._record(bench, found, None, {"prune and train": bench.clock() - began})

    def _record(
        self, bench: Bench, found: Recovered, started: float | None, seconds: dict[str, float], sparse_steps: int = 0
    ) -> Record:
        assert found.training is not None
        dense, left = bench.groups, _groups(found.model, bench.groups)
        return Record(
            **self._named(),
            metric=bench.metric.name,
            unit=bench.metric.difference_unit,
            device=_device(bench),
            images=_images(bench),
            macs=left.macs() / dense.macs(),
            params=sum(p.numel() for p in found.model.parameters()) / sum(p.numel() for p in bench.job.model.parameters()),
            dense=bench.dense,
            started=started,
            trained=bench.reported(found.model),
            sparse_steps=sparse_steps,
            training=dataclasses.asdict(found.training),
            seconds=seconds,
        )


def _groups(model: nn.Module, dense: Groups) -> Groups:
    """Of a slim network, whoever made it: its exact costs."""
    return tracing.trace(copy.deepcopy(model).cpu(), torch.zeros(dense.example_shape))


def _device(bench: Bench) -> str:
    device = torch.device(bench.options.device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _images(bench: Bench) -> dict[str, int]:
    crops = {"calibration crops": len(bench.calibration), "selection crops": len(bench.selection)}
    return {"report images": sum(len(inputs) for inputs, _ in bench.report), **crops}
