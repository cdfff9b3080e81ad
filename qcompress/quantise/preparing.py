"""A network made ready for the widths of its layers: BatchNorm folded, ranges, weights on their grids, judged step by step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from qcompress.data.images import CalibrationCrops, Crops
from qcompress.errors import InputError, UsageError
from qcompress.groups import Groups
from qcompress.metrics import Metric
from qcompress.progress import Advance
from qcompress.quantise.equalisation import equalise
from qcompress.quantise.folding import fold
from qcompress.quantise.layers import own_layers
from qcompress.quantise.ranges import Ranges, least_error, observe
from qcompress.quantise.sequence import OnGrids, Way, put_on_grids, rounded_to_nearest
from qcompress.quantise.simulate import check_widths, simulated
from qcompress.recover.choice import mean_metric

__all__ = ["Prepared", "prepare"]


@dataclass(frozen=True)
class Step:
    """One step of `prepare`: the metric's chooser with it, higher is better, and whether that was better than without."""

    name: str
    value: float
    kept: bool


@dataclass(frozen=True, eq=False)
class Prepared:
    """A float32 network whose weights lie on the grids of their widths, and what an exporter has to know of these.

    model   without BatchNorm where that could be folded; the names are those of the network that was given
    scales  of weights, by layer of width int8 or int4, as `grids.along_outputs`
    ranges  of inputs, by layer of width int8
    steps   what was tried, in order
    notes   sentences for people
    """

    model: nn.Module
    scales: Mapping[str, Tensor]
    ranges: Ranges
    steps: tuple[Step, ...]
    notes: tuple[str, ...]


def prepare(
    slim: nn.Module,
    widths: Mapping[str, str],
    example: Tensor,
    calibration: CalibrationCrops,
    metric: Metric,
    judging: Crops | None = None,
    *,
    groups: Groups | None = None,
    batch: int = 8,
    positions: int = 40_000,
    progress: Advance | None = None,
) -> Prepared:
    """`slim` with the weights of its layers on the grids of their `widths`, as near to what it computes as can be; it is left
    as it was.

    Begun with is rounding to nearest, over the whole ranges of inputs. Then, each kept only if the simulated network is better
    with it on the `judging` crops, by `metric.chooser`: channels brought to like ranges (needs `groups`, the coupled groups of
    `slim`; layers that are int8), ranges of least error, and weights rounded in sequence (`sequence.put_on_grids`). Without
    judging crops the calibration crops judge, on which a step looks better than it is.
    `progress` is told the share done, 0..1. Raises UsageError for widths that do not fit the network, and for fewer than two
    calibration crops; InputError where the network on these widths has no metric.
    """
    check_widths(slim, widths)
    if len(calibration) < 2:
        raise UsageError(f"rounding got {len(calibration)} calibration crop, expected at least 2", "give it more crops")
    judge = _Judge(widths, calibration if judging is None else judging, metric.chooser, batch)
    whole = fold(slim, example)
    eighths = [name for name, width in widths.items() if width == "int8"]
    begun, ranges = whole, observe(whole, own_layers(whole), calibration, batch)
    judge.better("weights rounded to nearest", rounded_to_nearest(begun, widths), ranges)
    if groups is not None and eighths:
        equal = equalise(whole, groups, eighths, calibration)
        found = observe(equal.model, ranges, calibration, batch)
        if equal.scaled and judge.better("channels brought to like ranges", rounded_to_nearest(equal.model, widths), found):
            begun, ranges = equal.model, found
    if eighths:
        found = ranges | least_error(begun, {name: ranges[name] for name in eighths if name in ranges}, calibration, batch)
        if judge.better("input ranges of least error", rounded_to_nearest(begun, widths), found):
            ranges = found
    way, options = Way(), {"batch": batch, "positions": positions}
    sequel = put_on_grids(whole, begun, widths, ranges, calibration, way, progress=progress, **options)
    judge.better("weights rounded in sequence", sequel, ranges)
    return judge.result({name: ranges[name] for name in eighths if name in ranges})


class _Judge:
    """Measures simulated networks and keeps the best one."""

    def __init__(self, widths: Mapping[str, str], crops: Crops, metric: Metric, batch: int) -> None:
        self._widths, self._crops, self._metric, self._batch = widths, crops, metric, batch
        self._best: OnGrids | None = None
        self._value = -math.inf
        self._steps: list[Step] = []

    def better(self, name: str, found: OnGrids, ranges: Ranges) -> bool:
        """Whether `found` is better than all before; then it is kept."""
        network = simulated(found.model, self._widths, ranges, scales=found.scales)
        value = mean_metric(network, self._crops, self._metric, self._batch)
        value = value if self._metric.higher_is_better else -value
        better = value > self._value
        if better:
            self._best, self._value = found, value
        self._steps.append(Step(name, value, better))
        return better

    def result(self, ranges: Ranges) -> Prepared:
        """The best network. Raises InputError where none had a value."""
        if self._best is None:
            message = f"{self._metric.name} of the network with rounded weights is not a number"
            raise InputError(message, "look for images that it cannot judge")
        notes = tuple(f"{step.name}: {abs(step.value):.3f}{'' if step.kept else ', not kept'}" for step in self._steps)
        return Prepared(self._best.model, self._best.scales, ranges, tuple(self._steps), notes)
