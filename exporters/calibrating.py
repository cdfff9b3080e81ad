"""What values the tensors of a float network take on calibration crops: the ranges that activations are quantised in.

Two passes: the first finds least and largest values, inside the network, the second counts into bins between them. Crops go
through one at a time and tensors are fetched in portions, so memory grows with neither the number of crops nor that of tensors,
and the ranges do not depend on how the crops are divided.

onnxruntime's own calibrators are not used: its entropy method looks at one candidate only unless later crops have larger
values than earlier ones, its percentiles are symmetric about zero, which leaves what follows a Relu half of the levels, and
both keep every tensor of all crops they are given (onnxruntime 1.31, `onnxruntime.quantization.calibrate`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from qcompress.errors import DataError
from qcompress.exporters.runtime import first_line, open_session

__all__ = ["METHODS", "measure_ranges"]

Array = NDArray[np.float32]
Range = tuple[float, float]

_BINS = 4096
_LEVELS = 256
_PERCENTILE = 99.99
_CUTS = np.geomspace(1, 1 / 16, 64)  # where the entropy method tries to cut, in parts of the largest absolute value
_PORTION = 2**26  # values of tensors that are fetched at a time


def measure_ranges(
    model: onnx.ModelProto, tensors: Sequence[str], crops: Array, methods: Sequence[str] = ("minmax",)
) -> dict[str, dict[str, Range]]:
    """By method of METHODS, and by tensor of `tensors`: the least and the largest value, of those that it holds on to.

    `model` has one input and one output in float32, `crops` (N, C, H, W), one at least, fit it. Every range holds zero. Raises
    DataError where the network does not run on the crops or a tensor has values that are no numbers.
    """
    ends, sizes = _ends(model, tensors, crops)
    counts = {} if set(methods) <= {"minmax"} else _counts(model, ends, sizes, crops)
    nothing = np.zeros(_BINS, np.int64)
    return {method: {name: METHODS[method](counts.get(name, nothing), *ends[name]) for name in tensors} for method in methods}


def _ends(model: onnx.ModelProto, tensors: Sequence[str], crops: Array) -> tuple[dict[str, Range], dict[str, int]]:
    """Least and largest value of each tensor, zero among them, and how many values it has for one crop."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    kinds = {"ReduceMin": TensorProto.FLOAT, "ReduceMax": TensorProto.FLOAT, "Size": TensorProto.INT64}
    for number, name in enumerate(tensors):
        for kind, written in kinds.items():
            watched.graph.node.append(helper.make_node(kind, [name], [f"{kind}/{number}"]))
            watched.graph.output.append(helper.make_tensor_value_info(f"{kind}/{number}", written, None))
    low, high, size = np.zeros(len(tensors)), np.zeros(len(tensors)), np.zeros(len(tensors), np.int64)
    wanted = [f"{kind}/{number}" for kind in kinds for number in range(len(tensors))]
    for found in _runs(watched, wanted, crops):
        values = np.array([np.ravel(value) for value in found], np.float64).reshape(len(kinds), len(tensors))
        low, high = np.minimum(low, values[0]), np.maximum(high, values[1])  # which hand NaN on
        size = np.maximum(size, values[2].astype(np.int64))
    for number, name in enumerate(tensors):
        if not (np.isfinite(low[number]) and np.isfinite(high[number])):
            raise DataError(f"calibration: the values of {name} are not finite", "look at the images, and at the checkpoint")
    ends = {name: (float(low[number]), float(high[number])) for number, name in enumerate(tensors)}
    return ends, {name: int(size[number]) for number, name in enumerate(tensors)}


def _counts(
    model: onnx.ModelProto, ends: Mapping[str, Range], sizes: Mapping[str, int], crops: Array
) -> dict[str, NDArray[np.int64]]:
    """(bins,) of each tensor: how many of its values, zeros apart, lie in each of as many equal parts of its range.

    Zero is on every grid, and a Relu writes so many that the rest would hardly count.
    """
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    source, known = model.graph.input[0].name, {value.name for value in model.graph.output}
    inner = [name for name in ends if name not in known and name != source]
    watched.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in inner)
    counts = {name: np.zeros(_BINS, np.int64) for name in ends}
    for portion in _portions([name for name in ends if name != source], sizes):
        for found in _runs(watched, portion, crops):
            for name, values in zip(portion, found, strict=True):
                counts[name] += _histogram(values, *ends[name])
    if source in ends:
        for crop in crops:
            counts[source] += _histogram(crop, *ends[source])
    return counts


def _histogram(values: Array, low: float, high: float) -> NDArray[np.int64]:
    """(bins,): how many of `values`, in low..high, lie in each of as many equal parts, zeros apart."""
    if low == high:
        return np.zeros(_BINS, np.int64)
    step = np.float32(_BINS / (high - low))
    bins = ((values.ravel() - np.float32(low)) * step).astype(np.int32)
    counts = np.bincount(bins.clip(0, _BINS - 1), minlength=_BINS)
    counts[min(int(np.float32(-low) * step), _BINS - 1)] -= np.count_nonzero(values == 0)
    return counts


def _portions(names: Sequence[str], sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """Tensors that are fetched together: one at least, and no more values than memory should hold."""
    portion: list[str] = []
    for name in names:
        if portion and sum(sizes[other] for other in portion) + sizes[name] > _PORTION:
            yield portion
            portion = []
        portion.append(name)
    if portion:
        yield portion


def _runs(model: onnx.ModelProto, wanted: Sequence[str], crops: Array) -> Iterator[Sequence[Array]]:
    """What the tensors `wanted` are for each crop."""
    session = open_session(model.SerializeToString(), "the network")
    entry = session.get_inputs()[0]
    batch = entry.shape[0] if isinstance(entry.shape[0], int) else 1
    for crop in crops:
        try:
            yield session.run(wanted, {entry.name: np.repeat(crop[None], batch, axis=0).astype(np.float32)})
        except Exception as error:  # onnxruntime's exceptions have no common base but this one
            raise DataError(f"calibration: the network does not run on crops of {crop.shape}: {first_line(error)}") from error


def _minmax(_: NDArray[np.int64], low: float, high: float) -> Range:
    return low, high


def _percentile(counts: NDArray[np.int64], low: float, high: float) -> Range:
    """What holds 99.99 % of the values that are not zero; half of the others lie at either end."""
    if not counts.sum():
        return low, high
    below = np.cumsum(counts) / counts.sum()
    cut = (1 - _PERCENTILE / 100) / 2
    first, last = int(np.searchsorted(below, cut)), int(np.searchsorted(below, 1 - cut))
    step = (high - low) / _BINS
    return min(low + first * step, 0.0), max(low + (last + 1) * step, 0.0)


def _entropy(counts: NDArray[np.int64], low: float, high: float) -> Range:
    """The part of the range after whose quantisation the values are told apart least from before (Kullback and Leibler).

    As in Migacz, 8-bit inference with TensorRT, GTC 2017: values are cut at the same distance from zero at both ends.
    """
    if not counts.sum():
        return low, high
    cuts = (max(high, -low) * _CUTS).tolist()
    candidates = [(max(low, -cut), min(high, cut)) for cut in cuts]
    return candidates[int(np.argmin([_divergence(counts, (low, high), candidate) for candidate in candidates]))]


def _divergence(counts: NDArray[np.int64], whole: Range, part: Range) -> float:
    """Of the values cut to `part`, from the same spread evenly over what has the same level; in nats.

    Values that are cut count for the first in full and for the second not at all, so cutting many is dear.
    """
    centres = whole[0] + (np.arange(_BINS) + 0.5) * (whole[1] - whole[0]) / _BINS
    inside = np.flatnonzero((centres >= part[0]) & (centres <= part[1]))
    kept = counts[inside].astype(np.float64)
    cut = kept.copy()
    cut[0] += counts[: inside[0]].sum()
    cut[-1] += counts[inside[-1] + 1 :].sum()
    levels = ((centres[inside] - part[0]) / (part[1] - part[0]) * _LEVELS).astype(np.int64).clip(0, _LEVELS - 1)
    filled = cut > 0
    share = np.bincount(levels, kept, _LEVELS) / np.maximum(np.bincount(levels, filled, _LEVELS), 1)
    spread = np.where(filled, share[levels], 0.0)
    if not spread.any():
        return float("inf")
    p, q = cut[filled] / cut.sum(), np.maximum(spread[filled] / spread.sum(), 1e-9)
    return float((p * np.log(p / q)).sum())


METHODS: Mapping[str, Callable[[NDArray[np.int64], float, float], Range]] = {
    "minmax": _minmax,
    "percentile": _percentile,
    "entropy": _entropy,
}
"""From how often values lie in each of equal parts of a range, and its ends, to the part of it that is quantised."""
