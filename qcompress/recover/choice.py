"""Repair, with BatchNorm statistics re-estimated only where that helps."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from qcompress.data.images import CalibrationCrops, Crops, SelectionCrops
from qcompress.errors import InputError
from qcompress.frozen import answer
from qcompress.groups import Cut, Groups
from qcompress.metrics import Metric
from qcompress.progress import Advance
from qcompress.recover import LayerFigures, Level, has_batchnorm, recover, reestimate_batchnorm
from qcompress.recover.static import StaticRepair

if TYPE_CHECKING:
    from qcompress.finetune.contract import TrainResult

__all__ = ["Recovered", "evidence", "mean_metric", "recover_best"]


@dataclass(frozen=True, eq=False)
class Recovered:
    """The repaired network and how it came about; `note` is a sentence for people. `training` is what came after the repair."""

    model: nn.Module
    level: Level
    batchnorm_reestimated: bool
    layers: tuple[LayerFigures, ...]
    note: str
    value: float = math.nan  # of the metric on the selection crops
    training: TrainResult | None = None


def evidence(model: nn.Module, crops: Crops, metric: Metric, batch: int = 8) -> NDArray[np.float64]:
    """(N, ...): what the metric needs of each of the crops."""
    with torch.inference_mode():
        found = [
            metric.evidence_of(answer(model, crops.inputs[start : start + batch]), crops.targets[start : start + batch])
            for start in range(0, len(crops), batch)
        ]
    return np.concatenate(found)


def mean_metric(model: nn.Module, crops: Crops, metric: Metric, batch: int = 8) -> float:
    """The metric of `crops`, in its unit: for most the mean over them."""
    return metric.overall(evidence(model, crops, metric, batch))


def recover_best(
    level: Level,
    dense: nn.Module,
    slim: nn.Module,
    groups: Groups,
    cuts: Mapping[str, Cut],
    calibration: CalibrationCrops,
    selection: SelectionCrops,
    metric: Metric,
    static: StaticRepair | None = None,
    *,
    batch: int = 8,
    progress: Advance | None = None,
) -> Recovered:
    """`recover`, with and without BatchNorm statistics re-estimated; what is best on the selection crops is kept.

    The network as it was cut is a candidate too: repair can lose where little was removed. So is, with `static`, its static
    repair; the repair in sequence then starts from there, and on networks that amplify errors loses to it. Re-estimated
    statistics are fragile both ways: in trials they gave up to 6.9 dB back, and cost more than that on another network.
    """
    level = level if cuts else "none"  # nothing was removed: the network stays as it is, to the last bit
    candidates = []
    begun = slim
    if level == "lstsq" and static is not None:
        begun = copy.deepcopy(slim)
        static.repair(begun, cuts)
        candidates.append(Recovered(begun, level, False, (), ""))
    repaired = recover(level, dense, begun, groups, cuts, calibration, batch=batch, begun=begun is not slim, progress=progress)
    candidates.insert(0, Recovered(repaired.model, level, level == "batchnorm", repaired.layers, ""))
    if level != "none":
        candidates.append(Recovered(recover("none", dense, slim, groups, cuts, calibration).model, "none", False, (), ""))
        if level != "batchnorm" and has_batchnorm(repaired.model):
            restated = [(reestimate_batchnorm(one.model, calibration, batch), one) for one in candidates if one.level == level]
            candidates += [replace(one, model=model, batchnorm_reestimated=True) for model, one in restated]
    values = [mean_metric(candidate.model, selection, metric, batch) for candidate in candidates]
    if all(map(math.isnan, values)):
        raise InputError(f"{metric.name} on the selection images is not a number", "look for images that it cannot judge")
    worst = -math.inf if metric.higher_is_better else math.inf
    ranks = [worst if math.isnan(value) else value for value in values]
    best = ranks.index((max if metric.higher_is_better else min)(ranks))
    return replace(candidates[best], note=_note(candidates[best], level, values[best], metric), value=values[best])


def _note(kept: Recovered, asked: Level, value: float, metric: Metric) -> str:
    note = f"{value:.3f} {metric.unit} on the selection images"
    if kept.level != asked:
        note += f"; {asked} would have been worse than no repair"
    if kept.level == "lstsq" and not kept.layers:
        note += ", refitted without following errors from layer to layer"
    if kept.batchnorm_reestimated:
        note += ", BatchNorm statistics re-estimated"
    return note
