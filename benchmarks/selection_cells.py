"""One cell of the benchmark: network, share of the units, block, way and seed; and what is recorded of it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from selection_bench import Bench
from selection_repair import Seconds, biased, refitted
from selection_ways import WAYS

from qcompress import seeds
from qcompress.groups import Groups, Side, in_blocks
from qcompress.selection import Selection

__all__ = ["BLOCK", "Cell", "Draw", "Outcome", "Record"]

BLOCK = 16
"""Channels that a runtime computes at once, for the costs in whole blocks."""


_SIDES: tuple[Side, Side] = ("in", "out")


class Outcome(BaseModel):
    """What a file holds; `failed` is the reason where there is nothing else."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    failed: str | None = None


class Draw(BaseModel):
    """One selection. The metric on the report images as cut and after each repair; shares kept; what it took.

    batchnorm  whether the repair re-estimated the statistics
    others     the metric that choices go by, where it is another than the one reported, as cut and after the repair
    costs      shares of the dense network's that are kept: "macs" and "params", exact, and with "_blocks" in blocks of 16
    pruned     units per group
    seconds    by part of the cell; of scores and search see `cost`
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    removed: int
    cut: float
    bias: float | None
    repaired: float
    batchnorm: bool
    others: dict[str, float]
    costs: dict[str, float]
    pruned: tuple[int, ...]
    cost: dict[str, float]
    seconds: dict[str, float]


class Record(Outcome):
    """A cell, measured. `reached` is the share of the units that went; `dense` what it started from, `given` the checkpoint."""

    network: str
    way: str
    objective: str
    coefficients: dict[str, float]
    sparsity: float
    align: int
    seed: int
    greedy: bool
    metric: str = ""
    unit: str = ""
    device: str = ""
    images: dict[str, int] = {}
    units: int = 0
    dense: float = 0.0
    given: float = 0.0
    draws: tuple[Draw, ...] = ()

    @property
    def reached(self) -> float:
        """Share of the units that went, mean over the draws."""
        return sum(draw.removed for draw in self.draws) / (len(self.draws) * self.units)


@dataclass(frozen=True)
class Cell:
    """What identifies a record."""

    network: str
    sparsity: float
    align: int
    way: str
    seed: int

    def path(self, out: Path) -> Path:
        """The file of its record in the folder `out`."""
        way = re.sub(r"[^a-z0-9.]+", "-", self.way.lower()).strip("-")
        return out / self.network / f"{way}_{self.sparsity:g}_align{self.align}_seed{self.seed}.json"

    def failure(self, reason: str) -> Record:
        """The record of a cell that could not be measured."""
        return Record(failed=reason, **self._named())

    def measure(self, bench: Bench) -> Record:
        """Chooses, cuts, repairs and reports, once for each draw of the way. Raises whatever fails."""
        draws = tuple(
            self._draw(bench, seeds.integer(self.seed, f"selection benchmark {number}"))
            for number in range(WAYS[self.way].draws)
        )
        splits = bench.job.splits
        images = {"calibration": len(splits.calibration), "selection": len(splits.selection), "report": _count(bench)}
        return Record(
            **self._named(),
            metric=bench.metric.name,
            unit=bench.metric.difference_unit,
            device=_device(bench),
            images=images | {"calibration crops": len(bench.calibration), "selection crops": len(bench.selection)},
            units=len(bench.groups.space),
            dense=bench.dense,
            given=bench.given,
            draws=draws,
        )

    def _named(self) -> dict[str, Any]:
        way = WAYS[self.way]
        named = {"objective": way.objective, "coefficients": dict(way.coefficients), "greedy": way.greedy}
        return dataclasses.asdict(self) | named

    def _draw(self, bench: Bench, seed: int) -> Draw:
        target, alignment = bench.asked(self.sparsity, self.align)
        chosen = WAYS[self.way].choose(bench, target, alignment, seed)
        seconds = Seconds()
        with seconds.of("repair", bench):
            repaired, batchnorm = refitted(bench, chosen.selection)
        cut = bench.cut(chosen.selection)
        with seconds.of("report", bench):
            values = {"cut": bench.reported(cut), "repaired": bench.reported(repaired)}
            others = _others(bench, {"cut": cut, "repaired": repaired})
        return Draw(
            removed=len(chosen.selection),
            cut=values["cut"],
            bias=bench.reported(biased(bench, chosen.selection)) if bench.options.bias else None,
            repaired=values["repaired"],
            batchnorm=batchnorm,
            others=others,
            costs=_costs(bench.groups, chosen.selection),
            pruned=tuple(chosen.selection.counts.values()),
            cost=dataclasses.asdict(chosen.cost),
            seconds=seconds.parts,
        )


def _others(bench: Bench, models: Mapping[str, torch.nn.Module]) -> dict[str, float]:
    chooser = bench.metric.chooser
    if chooser is bench.metric:
        return {}
    return {f"{chooser.name}, {name}": bench.reported(model, chooser) for name, model in models.items()}


def _costs(groups: Groups, selection: Selection) -> dict[str, float]:
    counts = selection.counts
    return {
        "macs": groups.macs(counts) / groups.macs(),
        "macs_blocks": groups.macs(counts, BLOCK) / groups.macs(align=BLOCK),
        "params": groups.params(counts) / groups.params(),
        "params_blocks": _params_in_blocks(groups, counts) / _params_in_blocks(groups, {}),
    }


def _params_in_blocks(groups: Groups, counts: Mapping[str, int]) -> int:
    """Parameters with the channels at both sides of every layer rounded up to whole blocks."""
    total = 0
    for layer in groups.layers:
        inputs, outputs = (in_blocks(groups.kept_channels(layer, side, counts), BLOCK) for side in _SIDES)
        total += layer.params(inputs, outputs)
    return total


def _count(bench: Bench) -> int:
    return sum(len(inputs) for inputs, _ in bench.report)


def _device(bench: Bench) -> str:
    device = torch.device(bench.options.device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
