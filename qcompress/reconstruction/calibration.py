"""What the loss of one group really is, measured: the network with that group cut, statically repaired, on calibration crops.

The least-squares loss takes errors for small and independent. Where a group is cut deep neither holds, and its price against
other groups is off by factors. A few measurements per group put that right.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from qcompress.data.images import CalibrationCrops
from qcompress.frozen import answer
from qcompress.groups import Groups
from qcompress.metrics import Metric
from qcompress.progress import Advance
from qcompress.selection import Selection
from qcompress.surgery import SlicedShell, Weights

__all__ = ["calibrate"]

_SHARES = (0.25, 0.5, 0.75, 0.95)
_MEASUREMENTS = 256  # of all groups together, about: with more groups fewer shares of each are measured
_CROPS = 8
_TRUST = 8.0  # measured and predicted losses are believed within this factor of each other


def calibrate(
    model: nn.Module,
    groups: Groups,
    crops: CalibrationCrops,
    metric: Metric,
    weights: Weights,
    orders: Sequence[NDArray[np.intp]],
    losses: Sequence[NDArray[np.float64]],
    progress: Advance | None = None,
) -> tuple[list[NDArray[np.float64]], int]:
    """The losses (most + 1,) of every group, corrected, and the number of measurements: candidates on up to 8 crops.

    Corrected is the geometric mean of what was predicted and what was measured between it (interpolated, made monotone, and
    brought to the same total): on five networks better than either alone, since the one is smooth and the other true.
    """
    some = CalibrationCrops(crops.inputs[:_CROPS], crops.targets[:_CROPS])
    measure = _Measure(model, groups, some, metric, weights)
    shares = _SHARES[:: max(1, -(-len(_SHARES) * len(orders) // _MEASUREMENTS))]
    dense, points = measure([]), []
    for number, order in enumerate(orders):
        counts = sorted({round(share * len(order)) for share in shares} - {0})
        start = groups.space.spans[number].start
        values = [measure((order[:count] + start).tolist()) - dense for count in counts]
        points.append((np.array([0, *counts]), np.maximum.accumulate(np.maximum([0.0, *values], 0.0))))
        if progress:
            progress((number + 1) / len(orders))
    predicted = sum(float(loss[at].sum()) for loss, (at, _) in zip(losses, points, strict=True))
    measured = sum(float(values.sum()) for _, values in points)
    ratio = predicted / measured if measured > 0 else 0.0
    return [_between(loss, at, ratio * values) for loss, (at, values) in zip(losses, points, strict=True)], measure.calls


def _between(loss: NDArray[np.float64], at: NDArray[np.intp], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(most + 1,) the geometric mean of the two, within the factor that is believed."""
    measured = np.interp(np.arange(len(loss)), at, values)
    corrected: NDArray[np.float64] = np.sqrt(loss * np.clip(measured, loss / _TRUST, loss * _TRUST))
    return np.maximum.accumulate(corrected)


class _Measure:
    """The mean loss of a network with some units gone, lower is better, in the chooser's unit."""

    def __init__(self, model: nn.Module, groups: Groups, crops: CalibrationCrops, metric: Metric, weights: Weights) -> None:
        self._shell, self._groups, self._crops = SlicedShell(model, weights), groups, crops
        self._metric, self.calls = metric.chooser, 0

    def __call__(self, pruned: list[int]) -> float:
        self.calls += 1
        network = self._shell.cut(self._groups.cuts(Selection(self._groups.space, tuple(sorted(pruned)))))
        with torch.inference_mode():
            values = self._metric.per_image(answer(network, self._crops.inputs), self._crops.targets)
        mean = float(values.double().mean())
        return -mean if self._metric.higher_is_better else mean
