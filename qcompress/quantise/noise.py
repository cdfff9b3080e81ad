"""What each width costs each layer: the loss of the network in which one layer has that width and all others are whole.

Predicted, and measured, and steadied, as the losses of pruned groups are (`reconstruction`), so that the two can be added up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from qcompress.data.images import CalibrationCrops
from qcompress.errors import InputError
from qcompress.metrics import Metric
from qcompress.progress import Advance
from qcompress.quantise.exchanging import Exchange, Exchanging
from qcompress.quantise.ranges import observe
from qcompress.quantise.simulate import check_widths
from qcompress.quantise.variants import Key, Variant, predict
from qcompress.reconstruction.calibration import TRUST, measured_crops
from qcompress.recover.moments import SecondMoments

__all__ = ["measure"]

_BATCH = 8
_UNMEASURED = ("float16",)  # its loss drowns in the rounding of a pass: what is predicted is taken


def measure(
    model: nn.Module,
    layers: Sequence[str],
    widths: Sequence[str],
    crops: CalibrationCrops,
    metric: Metric,
    *,
    moments: Mapping[str, SecondMoments] | None = None,
    ratio: float = 1.0,
    calibrated: bool = True,
    progress: Advance | None = None,
) -> dict[str, dict[str, float]]:
    """By layer and width, what the network loses if that layer alone has that width: 0 or more, float32 loses 0.

    Weights are rounded to nearest or, to 4 bits in layers with `moments` (of their inputs on `crops`, as for a static repair),
    so that errors compensate; the input of an int8 layer is rounded over its range, and the bias makes up for the mean error.
    That is what `prepare` does, less what it learns from layers before.

    What counts is measured: the rise of `metric.chooser`'s loss on the crops, as many as `reconstruction.calibration` measures
    on, `ratio` times. Beside it stands what is predicted, the covariance of the errors at the layer's outputs weighted by what
    they are worth at the network's output (the Gauss-Newton loss, `reconstruction.sensitivity`): brought to the measured total,
    it is believed that no loss is further from it than a factor. So a loss that a few crops take for a gain still counts.

    With `Eliminated.ratio`, these losses are in the unit of the profiles of pruned groups, and both can be added up: those are
    geometric means of predicted losses and measured ones, the latter brought by `ratio` to the total of the former. Left at 1,
    the unit is that of `metric.chooser`. Not `calibrated`, nothing is measured and losses are the predicted ones, which is the
    unit of `eliminated(calibrated=False)`.

    A layer's int8 may cost more than its int4, whose input is not rounded. Layers that the network does not call, or on which
    its output does not depend, lose nothing. `progress` is told the share done, 0..1. Raises UsageError for a name that is no
    layer or a width that is not known; InputError where the metric, or what a layer sees, is not finite.
    """
    for width in widths:
        check_widths(model, dict.fromkeys(layers, width))
    some = measured_crops(crops)
    ranges = observe(model, layers, some, _BATCH) if "int8" in widths else {}
    asked = [(name, width) for name in layers for width in widths if width != "float32"]
    variants = {key: Variant.of(model, *key, ranges, (moments or {}).get(key[0])) for key in asked}
    predicted = predict(model, layers, some, variants, _BATCH)
    result = {name: dict.fromkeys(widths, 0.0) for name in layers}
    losses = predicted
    if calibrated:
        trials = {key: variants[key] for key in predicted if key[1] not in _UNMEASURED}
        losses = _believed(predicted, _measured(model, some, metric.chooser, trials, progress))
    for (name, width), loss in losses.items():
        result[name][width] = loss * (ratio if calibrated else 1.0)
    return result


def _measured(
    model: nn.Module,
    crops: CalibrationCrops,
    metric: Metric,
    variants: Mapping[Key, Variant],
    progress: Advance | None,
) -> dict[Key, float]:
    """By how much the metric is worse with each variant; less than 0 where it is better."""
    passes, targets = Exchanging(model, crops.inputs, _BATCH), torch.split(crops.targets, _BATCH)
    sign = -1.0 if metric.higher_is_better else 1.0

    def loss(name: str | None, exchange: Exchange | None) -> float:
        values = [metric.per_image(*pair) for pair in zip(passes(name, exchange), targets, strict=True)]
        return sign * float(torch.cat(values).double().mean())

    whole, found = loss(None, None), {}
    if not math.isfinite(whole):
        raise InputError(
            f"the loss by {metric.name} of the whole network on the calibration images is {whole}, expected a number"
        )
    for number, (key, variant) in enumerate(variants.items()):
        found[key] = loss(key[0], variant.exchange) - whole
        if progress:
            progress((number + 1) / len(variants), key[0])
    return found


def _believed(predicted: Mapping[Key, float], measured: Mapping[Key, float]) -> dict[Key, float]:
    """The measured losses within a factor of the predicted ones, these brought to the measured total."""
    finite = {key: value for key, value in measured.items() if math.isfinite(value)}
    total, expected = sum(max(value, 0.0) for value in finite.values()), sum(predicted[key] for key in finite)
    scale = total / expected if expected > 0 else 1.0
    result = {}
    for key, value in predicted.items():
        usual = scale * value
        result[key] = min(max(finite.get(key, usual), usual / TRUST), usual * TRUST)
    return result
