"""Repair without training: what was lost by removing channels is given back, as far as the others can."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import nn

from qcompress.data.images import CalibrationCrops
from qcompress.groups import Cut, Groups
from qcompress.progress import Advance
from qcompress.recover.batchnorm import has_batchnorm, reestimate_batchnorm
from qcompress.recover.bias import fold_means
from qcompress.recover.lstsq import LayerFigures, refit
from qcompress.scoring.activations import mean_inputs

__all__ = ["LayerFigures", "Level", "RecoverResult", "has_batchnorm", "recover", "reestimate_batchnorm"]

Level = Literal["none", "batchnorm", "bias", "lstsq"]


@dataclass(frozen=True, eq=False)
class RecoverResult:
    """The repaired network, how it was repaired, and per refitted layer ("lstsq" only) how much better it fits."""

    model: nn.Module
    level: Level
    layers: tuple[LayerFigures, ...] = ()


def recover(
    level: Level,
    dense: nn.Module,
    slim: nn.Module,
    groups: Groups,
    cuts: Mapping[str, Cut],
    crops: CalibrationCrops,
    *,
    ridge: float = 1e-4,
    batch: int = 8,
    positions: int = 40_000,
    begun: bool = False,
    progress: Advance | None = None,
) -> RecoverResult:
    """A repaired copy of `slim`, which `cuts` made from `dense`; the arguments are left as they were.

    none       the copy as it is
    batchnorm  BatchNorm statistics are re-estimated (batchnorm.reestimate_batchnorm), the weights stay
    bias       the typical contribution of removed channels goes into their consumers' biases (bias.fold_means)
    lstsq      the same, then every layer whose input changed is refitted (lstsq.refit, which explains ridge and positions)

    With `begun`, `slim` has weights that make up for what was removed already: no means are folded into them. Layers without a
    bias may get one. `progress` is told the share done, 0..1.
    """
    model = copy.deepcopy(slim)
    figures: tuple[LayerFigures, ...] = ()
    if level == "batchnorm":
        return RecoverResult(reestimate_batchnorm(model, crops, batch), level)
    if level != "none" and not begun:
        consumers = [name for name, cut in cuts.items() if cut.kept_in is not None]
        fold_means(dense, model, cuts, mean_inputs(dense, consumers, crops, batch))
    if level == "lstsq":
        figures = refit(dense, model, groups, cuts, crops, ridge=ridge, batch=batch, positions=positions, progress=progress)
    return RecoverResult(model, level, figures)
