"""A float ONNX file with its layers at chosen widths: float16, int8 and int4 weights, int8 arithmetic where onnxruntime has it.

int8 is U8S8: what a layer reads is quantised to unsigned bytes, one grid per tensor, its weights to signed bytes, one symmetric
grid per output channel. Convolutions, depthwise and grouped ones too, and linear layers compute in integers. A transposed
convolution only stores int8, since onnxruntime computes it in float32. float16 and int4 are storage for every layer.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from qcompress.errors import DataError, ExportError, InputError, UsageError
from qcompress.exporters.base import Artifact
from qcompress.exporters.calibrating import METHODS, measure_ranges
from qcompress.exporters.qdq_plan import Plan, Scales, built, planned
from qcompress.exporters.runtime import first_line, open_bytes, open_onnx
from qcompress.files import write_bytes

__all__ = ["Chosen", "Sizes", "chosen_method", "quantise", "size_of", "sizes"]

Array = NDArray[np.float32]

_WRONG = 1e-4  # relative difference from the same network in another opset that no rounding explains
_ANY_RANGE = (-1e6, 1e6)  # where only the size of a file matters: numbers take the same bytes whatever they are


@dataclass(frozen=True)
class Sizes:
    """Bytes of a file: `layers` has those of the weights, scales and biases of each layer, `rest` all others.

    `integer` are the layers that compute in integers.
    """

    total: int
    layers: Mapping[str, int]
    integer: frozenset[str] = frozenset()

    @property
    def rest(self) -> int:
        """The graph, the grids of activations, metadata."""
        return self.total - sum(self.layers.values())


@dataclass(frozen=True)
class Chosen:
    """The best way to find ranges, and what each was worth."""

    method: str
    values: Mapping[str, float]


def quantise(
    float_path: Path,
    path: Path,
    widths: Mapping[str, str],
    crops: Array,
    *,
    method: str = "minmax",
    scales: Scales | None = None,
    metadata: Mapping[str, str] | None = None,
    integer_int4: bool = False,
) -> Artifact:
    """Writes the float32 network in `float_path` to `path` with the layers in `widths` at those widths, the others in float32.

    Layers are called as in `Module.named_modules()`. `crops` (N, C, H, W) are run through the float network for the ranges of
    activations, which `method` of METHODS makes of them. `scales` gives grids of weights, (out,) by layer, which come out
    exactly so; a layer without has the one that just holds its weights. The file's metadata stay, `metadata` is added. With
    `integer_int4` what int4 layers read is quantised as well, and they compute in int8: as fast, and between int8 layers much
    faster than in float32.

    Raises:
        InputError: the file cannot be read, or is not one that `export_onnx` wrote.
        UsageError: a layer, a width or a method that is not known, scales that do not fit.
        DataError: the network does not run on the crops.
        ExportError: the network cannot be written so.
        OutputError: `path` cannot be written.

    """
    _check_asked((method,), crops)
    plan = planned(float_path, widths, scales or {}, integer_int4=integer_int4)
    ranges = measure_ranges(plan.model, plan.watched, crops, (method,))[method] if plan.watched else {}
    model, _ = built(plan, ranges, metadata or {})
    data = bytes(model.SerializeToString())
    _check(data, plan, float_path, crops)
    write_bytes(path, data)
    notes = tuple(_notes(plan, method, len(crops)))
    return Artifact(path, "onnx", len(data), hashlib.sha256(data).hexdigest(), plan.opset, _is_dynamic(model), notes)


def sizes(
    float_path: Path, widths: Mapping[str, str], *, metadata: Mapping[str, str] | None = None, integer_int4: bool = False
) -> Sizes:
    """Bytes of the file that `quantise` would write, to the last one, without running the network. Raises as `quantise`."""
    plan = planned(float_path, widths, {}, integer_int4=integer_int4)
    model, owners = built(plan, dict.fromkeys(plan.watched, _ANY_RANGE), metadata or {})
    found = dict.fromkeys(plan.layers, 0)
    for tensor in model.graph.initializer:
        if tensor.name in owners:
            found[owners[tensor.name]] += tensor.ByteSize()
    integer = frozenset(entry.layer.name for entry in plan.narrow.values() if entry.integer)
    return Sizes(model.ByteSize(), found, integer)


def size_of(
    float_path: Path, widths: Mapping[str, str], *, metadata: Mapping[str, str] | None = None, integer_int4: bool = False
) -> int:
    """Bytes of the file that `quantise` would write. Raises as `quantise`."""
    return sizes(float_path, widths, metadata=metadata, integer_int4=integer_int4).total


def chosen_method(
    float_path: Path,
    widths: Mapping[str, str],
    crops: Array,
    evaluate: Callable[[Path], float],
    *,
    methods: Sequence[str] = tuple(METHODS),
    scales: Scales | None = None,
    integer_int4: bool = False,
) -> Chosen:
    """The method of `methods` whose file `evaluate` finds best; higher is better, of equals the first is taken.

    Nothing is measured where no activation is quantised. Raises as `quantise`, and what `evaluate` raises.
    """
    _check_asked(methods, crops)
    plan = planned(float_path, widths, scales or {}, integer_int4=integer_int4)
    if not plan.watched:
        return Chosen(methods[0], {})
    ranges, values = measure_ranges(plan.model, plan.watched, crops, methods), dict[str, float]()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        for method in methods:
            path.write_bytes(built(plan, ranges[method], {})[0].SerializeToString())
            values[method] = evaluate(path)
    best = max(methods, key=lambda method: -np.inf if np.isnan(values[method]) else values[method])
    return Chosen(best, values)


def _check_asked(methods: Sequence[str], crops: Array) -> None:
    unknown = [method for method in methods if method not in METHODS]
    if unknown or not methods:
        what = f"calibration {unknown[0]!r} is not known" if unknown else "no calibration is named"
        raise UsageError(f"{what}, expected one of {', '.join(METHODS)}")
    if not len(crops):
        raise DataError("no crops to calibrate on", "give at least one")


def _check(data: bytes, plan: Plan, float_path: Path, crops: Array) -> None:
    """Raise ExportError for a file that is not valid, or that does not give what the float network gives, in shape."""
    try:
        onnx.checker.check_model(onnx.ModelProto.FromString(data), full_check=True)
    except Exception as error:  # checker and shape inference raise their own kinds
        raise ExportError(f"the quantised network is not valid ONNX: {first_line(error)}") from error
    try:
        wide = open_onnx(float_path)
        crop = np.repeat(crops[:1], wide.input_shape[0] or 1, axis=0)
        expected, got = wide(crop), open_bytes(data, "the quantised network")(crop)
        raised = open_bytes(plan.model.SerializeToString(), "the network")(crop) if plan.raised else expected
    except InputError as error:
        raise ExportError(f"the quantised network does not run: {error}", error.hint) from error
    if got.shape != expected.shape or not np.isfinite(got).all():
        raise ExportError(f"the quantised network returns {got.shape}, expected finite numbers of shape {expected.shape}")
    if not np.abs(raised - expected).max() <= _WRONG * np.abs(expected).max():
        raise ExportError(
            f"in opset {plan.opset} the network computes something else", f"export it with opset {plan.opset}, or allow no int4"
        )


def _is_dynamic(model: onnx.ModelProto) -> bool:
    """Whether batch, height and width may vary."""
    sizes_of = model.graph.input[0].type.tensor_type.shape.dim
    return all(sizes_of[axis].HasField("dim_param") for axis in (0, 2, 3) if axis < len(sizes_of))


def _notes(plan: Plan, method: str, crops: int) -> Iterator[str]:
    kinds = {entry.layer.name: entry for entry in plan.narrow.values()}
    integer = sum(entry.integer for entry in kinds.values())
    if integer:
        yield f"{integer} layers compute in int8; ranges of activations by {method}, on {crops} crops"
    stored = [name for name, entry in kinds.items() if entry.width == "int8" and not entry.integer]
    if stored:
        yield f"stored in int8, computed in float32, for which onnxruntime has no integer operation: {', '.join(stored)}"
    if any(entry.width == "int4" for entry in kinds.values()):
        yield f"int4 weights: opset {plan.opset}, onnxruntime 1.23 or newer"
