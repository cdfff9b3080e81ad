"""What the loss of one group really is, measured: the network with that group cut, statically repaired, on calibration crops.

The least-squares loss takes errors for small and independent. Where a group is cut deep neither holds, and its price against
other groups is off by factors. A few measurements per group put that right.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn

from qcompress.data.images import CalibrationCrops
from qcompress.errors import InputError
from qcompress.groups import Groups
from qcompress.metrics import Metric
from qcompress.progress import Advance
from qcompress.refine.objective import SlicedMetric
from qcompress.selection import Selection
from qcompress.surgery import Weights

__all__ = ["TRUST", "calibrate", "measured_crops"]

_SHARES = (0.25, 0.5, 0.75, 0.95)
_MEASUREMENTS = 256  # of all groups together, about: with more groups fewer shares of each are measured
_PIXELS, _LABELLED = 2**16, 2**18  # measured on, about: of restored images, and of images with a label, which say less each
_FEWEST = 8
TRUST = 8.0
"""Measured and predicted losses are believed within this factor of each other."""


def calibrate(
    model: nn.Module,
    groups: Groups,
    crops: CalibrationCrops,
    metric: Metric,
    weights: Weights,
    orders: Sequence[NDArray[np.intp]],
    losses: Sequence[NDArray[np.float64]],
    progress: Advance | None = None,
) -> tuple[list[NDArray[np.float64]], int, float]:
    """The losses (most + 1,) of every group, corrected; the number of measurements; and by what these were multiplied.

    Candidates are measured on 8 crops of 96 pixels a side, or as much of others; on four times as many pixels where an image
    has a label.

    Corrected is the geometric mean of what was predicted and what was measured between it (interpolated, made monotone, and
    brought to the same total): in trials on four networks it was level with either alone or ahead. A group of which no consumer
    is known has nothing predicted; its losses are the measured ones.

    Raises InputError where the metric of the network itself is not finite.
    """
    some = measured_crops(crops)
    evaluate = SlicedMetric(model, groups, some, metric.chooser, batch=len(some), weights=weights)
    calls = 0

    def measure(pruned: NDArray[np.intp]) -> float:
        nonlocal calls
        calls += 1
        return -float(evaluate([Selection(groups.space, tuple(sorted(pruned.tolist())))], range(len(some))).mean())

    shares = _SHARES[:: max(1, -(-len(_SHARES) * len(orders) // _MEASUREMENTS))]
    dense, points = measure(np.zeros(0, np.intp)), []
    if not np.isfinite(dense):
        message = (
            f"the loss by {metric.chooser.name} of the whole network on the calibration images is {dense}, expected a number"
        )
        raise InputError(message, "--objective reconstruction --coefficient calibrated=0 does not measure it")
    for number, (span, order) in enumerate(zip(groups.space.spans, orders, strict=True)):
        counts = sorted({round(share * len(order)) for share in shares} - {0})
        points.append(_monotone(counts, [measure(span.start + order[:count]) - dense for count in counts]))
        if progress:
            progress((number + 1) / len(orders))
    predicted = sum(float(loss[at].sum()) for loss, (at, _) in zip(losses, points, strict=True) if loss.any())
    measured = sum(float(values.sum()) for loss, (_, values) in zip(losses, points, strict=True) if loss.any())
    ratio = predicted / measured if measured > 0 and predicted > 0 else 1.0
    return [_between(loss, at, ratio * values) for loss, (at, values) in zip(losses, points, strict=True)], calls, ratio


def measured_crops(crops: CalibrationCrops) -> CalibrationCrops:
    """As many of the crops as are measured on."""
    pixels = _LABELLED if crops.targets.dim() == 1 else _PIXELS
    count = max(_FEWEST, -(-pixels // int(crops.inputs[0, 0].numel())))
    return CalibrationCrops(crops.inputs[:count], crops.targets[:count])


def _monotone(counts: list[int], values: list[float]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Counts and losses that never fall, from nothing; what was not finite (a cut too deep to measure) is left out."""
    finite = [(count, value) for count, value in zip(counts, values, strict=True) if np.isfinite(value)]
    at = np.array([0, *(count for count, _ in finite)], np.intp)
    return at, np.maximum.accumulate(np.array([0.0, *(value for _, value in finite)]))


def _between(loss: NDArray[np.float64], at: NDArray[np.intp], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(most + 1,) the geometric mean of the two, within the factor that is believed; of what nothing predicts, the measured."""
    measured = np.interp(np.arange(len(loss)), at, values)
    if not loss.any():
        return measured
    corrected: NDArray[np.float64] = np.sqrt(loss * np.clip(measured, loss / TRUST, loss * TRUST))
    return np.maximum.accumulate(corrected)
