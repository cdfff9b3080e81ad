"""A network made ready for the widths of its layers: BatchNorm folded, ranges, weights on their grids, judged step by step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
    positions: int = 20_000,
    progress: Advance | None = None,
) -> Prepared:
    """`slim` with the weights of its layers on the grids of their `widths`, as near to what it computes as can be.

    Begun with is rounding to nearest, over the whole ranges of inputs. Then, each kept only if the simulated network is better
    with it on the `judging` crops, by `metric.chooser`: ranges of least error, and weights rounded in sequence
    (`sequence.put_on_grids`). With `groups`, the coupled groups of `slim`, the sequence is made once more from channels brought
    to like ranges, which was worth a hundredth of a decibel at most on the networks measured (docs/benchmarks.md). Without
    judging crops the calibration crops judge, on which a step looks better than it is.

    `slim` is left as it was. `progress` is told the share done, 0..1. Raises UsageError for widths that do not fit the network,
    and for fewer than two calibration crops; InputError where the network on these widths has no metric.
    """
    check_widths(slim, widths)
    if len(calibration) < 2:
        raise UsageError(f"rounding got {len(calibration)} calibration crop, expected at least 2", "give it more crops")
    judge = _Judge(widths, calibration if judging is None else judging, metric.chooser, batch)
    whole = fold(slim, example)
    eighths = [name for name, width in widths.items() if width == "int8"]
    ranges = observe(whole, own_layers(whole), calibration, batch)
    nearest, fine = rounded_to_nearest(whole, widths), False
    judge.better("to nearest", nearest, ranges)
    if eighths:
        finer = _finer(whole, ranges, eighths, calibration, batch)
        fine = judge.better("ranges of least error", nearest, finer)
        ranges = finer if fine else ranges

    def in_sequence(name: str, begun: nn.Module, ranges: Ranges, first: float, last: float) -> None:
        told = progress and (lambda done, note="": progress(first + (last - first) * done, note))
        found = put_on_grids(begun, widths, ranges, calibration, Way(), batch=batch, positions=positions, progress=told)
        judge.better(name, found, ranges)

    in_sequence("in sequence", whole, ranges, 0.0, 0.5 if groups else 1.0)
    if groups is not None and eighths:
        equal = equalise(whole, groups, eighths, calibration)
        found = observe(equal.model, ranges, calibration, batch)
        if fine:
            found = _finer(equal.model, found, eighths, calibration, batch)
        in_sequence("in sequence, from channels of like ranges", equal.model, found, 0.5, 1.0)
        if equal.left:
            judge.notes.append(f"no scale passes through the groups {', '.join(equal.left)}: their channels stay as they are")
    return judge.result()


def _finer(
    model: nn.Module, ranges: Ranges, layers: Sequence[str], crops: CalibrationCrops, batch: int
) -> dict[str, tuple[float, float]]:
    """`ranges`, in their order, those of `layers` with the least error."""
    own = {name: ranges[name] for name in layers if name in ranges}
    return {**ranges, **least_error(model, own, crops, batch)}


class _Judge:
    """Measures simulated networks and keeps the best one."""

    def __init__(self, widths: Mapping[str, str], crops: Crops, metric: Metric, batch: int) -> None:
        self._widths, self._crops, self._metric, self._batch = widths, crops, metric, batch
        self._best: tuple[OnGrids, Ranges] | None = None
        self._value = -math.inf
        self._steps: list[Step] = []
        self.notes: list[str] = []

    def better(self, name: str, found: OnGrids, ranges: Ranges) -> bool:
        """Whether `found` is better than all before; then it is kept."""
        network = simulated(found.model, self._widths, ranges, scales=found.scales)
        value = mean_metric(network, self._crops, self._metric, self._batch)
        value = value if self._metric.higher_is_better else -value
        better = value > self._value
        if better:
            self._best, self._value = (found, ranges), value
        self._steps.append(Step(name, value, better))
        return better

    def result(self) -> Prepared:
        """The best network. Raises InputError where none had a value."""
        if self._best is None:
            message = f"{self._metric.name} of the network with rounded weights is not a number"
            raise InputError(message, "look for images that it cannot judge")
        found, ranges = self._best
        own = {name: ranges[name] for name, width in self._widths.items() if width == "int8" and name in ranges}
        unit = f" {self._metric.unit}" if self._metric.unit else ""
        told = (f"{step.name}: {abs(step.value):.3f}{unit}{'' if step.kept else ', not kept'}" for step in self._steps)
        return Prepared(found.model, found.scales, own, tuple(self._steps), (*told, *self.notes))
