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
from numpy.typing import ArrayLike, NDArray
from onnx import numpy_helper, version_converter

from qcompress.errors import ExportError, InputError, UsageError
from qcompress.exporters import external_data
from qcompress.exporters.base import Artifact
from qcompress.exporters.calibrating import METHODS, measure_ranges
from qcompress.exporters.compacting import compact
from qcompress.exporters.qdq_layers import Layer, attribute, find_layers
from qcompress.exporters.qdq_placement import Graph, Placement, place
from qcompress.exporters.qdq_weights import to_grid
from qcompress.exporters.qdq_writing import Narrow, Ranges, origin, write_nodes
from qcompress.exporters.runtime import first_line, open_bytes
from qcompress.files import write_bytes
from qcompress.widths import BITS

__all__ = ["Chosen", "Sizes", "chosen_method", "quantise", "size_of", "sizes"]

Array = NDArray[np.float32]
Scales = Mapping[str, ArrayLike]  # by layer: (out,)

_STANDARD = ("", "ai.onnx")
_OPSETS = {"int8": 13, "int4": 21}  # the first in which a width can be written: scales by channel, the type INT4
_ANY_RANGE = (-1e6, 1e6)  # where only the size of a file matters: numbers take the same bytes whatever they are


@dataclass(frozen=True)
class Sizes:
    """Bytes of a file: `layers` has those of the weights, scales and biases of each layer, `rest` all others."""

    total: int
    layers: Mapping[str, int]

    @property
    def rest(self) -> int:
        """The graph, the grids of activations, metadata."""
        return self.total - sum(self.layers.values())


@dataclass(frozen=True)
class Chosen:
    """The best way to find ranges, and what each was worth."""

    method: str
    values: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class _Plan:
    """What is to be written, short of the ranges of activations; `narrow` by the name of the weight."""

    model: onnx.ModelProto
    layers: Mapping[str, Layer]
    narrow: Mapping[str, Narrow]
    graph: Graph
    placement: Placement
    opset: int

    @property
    def watched(self) -> list[str]:
        """The tensors whose ranges are needed."""
        return [name for name, root in self.placement.grid_of.items() if name == root]


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
    plan = _plan(float_path, widths, scales or {}, integer_int4)
    ranges = measure_ranges(plan.model, plan.watched, crops, (method,))[method] if plan.watched else {}
    model, _ = _model(plan, ranges, metadata or {})
    data = bytes(model.SerializeToString())
    _check(data, plan, crops)
    write_bytes(path, data)
    notes = tuple(_notes(plan, method, len(crops)))
    return Artifact(path, "onnx", len(data), hashlib.sha256(data).hexdigest(), plan.opset, _is_dynamic(model), notes)


def sizes(
    float_path: Path, widths: Mapping[str, str], *, metadata: Mapping[str, str] | None = None, integer_int4: bool = False
) -> Sizes:
    """Bytes of the file that `quantise` would write, to the last one, without running the network. Raises as `quantise`."""
    plan = _plan(float_path, widths, {}, integer_int4)
    model, owners = _model(plan, dict.fromkeys(plan.watched, _ANY_RANGE), metadata or {})
    found = dict.fromkeys(plan.layers, 0)
    for tensor in model.graph.initializer:
        if tensor.name in owners:
            found[owners[tensor.name]] += tensor.ByteSize()
    return Sizes(model.ByteSize(), found)


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
    if not methods:
        raise UsageError("no method to choose from", f"name some of {', '.join(METHODS)}")
    plan = _plan(float_path, widths, scales or {}, integer_int4)
    if not plan.watched:
        return Chosen(methods[0], {})
    ranges, values = measure_ranges(plan.model, plan.watched, crops, methods), dict[str, float]()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        for method in methods:
            path.write_bytes(_model(plan, ranges[method], {})[0].SerializeToString())
            values[method] = evaluate(path)
    best = max(methods, key=lambda method: -np.inf if np.isnan(values[method]) else values[method])
    return Chosen(best, values)


def _plan(float_path: Path, widths: Mapping[str, str], scales: Scales, integer_int4: bool) -> _Plan:
    """What to write for the layers in `widths`."""
    data, external = external_data.read(float_path)
    model = onnx.load_model(str(float_path)) if external else onnx.ModelProto.FromString(data)
    if model.functions or any(entry.g.node or entry.graphs for node in model.graph.node for entry in node.attribute):
        raise ExportError(f"{float_path}: it has functions or graphs inside nodes, which are not quantised")
    layers = find_layers(model.graph)
    _check_widths(widths, scales, layers, float_path)
    opset = max([_opset(model), *(_OPSETS.get(width, 0) for width in widths.values())])
    if opset > _opset(model):
        model = _raised(model, opset)
        layers = find_layers(model.graph)
    graph = Graph(model.graph)
    narrow = {
        layers[name].weight: _narrow(graph, layers[name], width, scales.get(name), integer_int4)
        for name, width in widths.items()
        if width != "float32"
    }
    integer = [number for entry in narrow.values() if entry.integer for number in entry.layer.nodes]
    return _Plan(model, layers, narrow, graph, place(graph, integer), opset)


def _check_widths(widths: Mapping[str, str], scales: Scales, layers: Mapping[str, Layer], path: Path) -> None:
    for name, width in widths.items():
        if width not in BITS:
            raise UsageError(f"width {width!r} of {name} is not known, expected one of {', '.join(BITS)}")
        if name not in layers:
            raise UsageError(
                f"{path}: no convolution, linear layer or transposed convolution has a weight called {name}.weight",
                "fold BatchNorm and export the network with export_onnx, which keeps the names of weights",
            )
    unused = [name for name in scales if widths.get(name) not in ("int8", "int4")]
    if unused:
        raise UsageError(f"scales for {', '.join(unused)}, expected layers that are int8 or int4")


def _narrow(graph: Graph, layer: Layer, width: str, scales: ArrayLike | None, integer_int4: bool) -> Narrow:
    weight = numpy_helper.to_array(graph.constants[layer.weight])
    if width == "float16":
        if np.abs(weight).max(initial=0.0) > np.finfo(np.float16).max:
            raise ExportError(f"{layer.name}: its weights do not fit into float16", "choose another width for it")
        return Narrow(layer, weight.astype(np.float16), width, integer=False)
    grid = to_grid(weight, layer, width, None if scales is None else np.asarray(scales))
    return Narrow(layer, grid, width, (width == "int8" or integer_int4) and _computes_in_integers(graph, layer))


def _computes_in_integers(graph: Graph, layer: Layer) -> bool:
    """Whether onnxruntime has an integer operation for what every node of the layer does."""
    for number in layer.nodes:
        node = graph.graph.node[number]
        if node.input[0] in graph.constants or node.op_type == "ConvTranspose":
            return False
        if node.op_type == "Gemm" and (
            attribute(node, "alpha", 1.0) != 1 or attribute(node, "beta", 1.0) != 1 or attribute(node, "transA", 0)
        ):
            return False
        bias = node.input[2] if len(node.input) > 2 else ""
        if bias and (bias not in graph.constants or list(graph.constants[bias].dims) != [layer.channels]):
            return False
    return True


def _model(plan: _Plan, ranges: Ranges, metadata: Mapping[str, str]) -> tuple[onnx.ModelProto, dict[str, str]]:
    """The new model, and which layer each of its constants belongs to."""
    model = onnx.ModelProto()
    model.CopyFrom(plan.model)
    nodes, constants = write_nodes(plan.graph, plan.placement, ranges, plan.narrow)
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(constants)
    known = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, {**known, **metadata})
    origins = [origin(tensor.name) for tensor in constants]
    compact(model, frozenset(layer.weight for layer in plan.layers.values()))
    layers = {tensor: name for name, layer in plan.layers.items() for tensor in _tensors(plan.graph, layer)}
    owners = {
        tensor.name: layers[source] for tensor, source in zip(model.graph.initializer, origins, strict=True) if source in layers
    }
    return model, owners


def _tensors(graph: Graph, layer: Layer) -> Iterator[str]:
    """The weight of a layer, and its biases."""
    yield layer.weight
    for number in layer.nodes:
        yield from (name for name in graph.graph.node[number].input[2:3] if name in graph.constants)


def _check(data: bytes, plan: _Plan, crops: Array) -> None:
    """Raise ExportError for a file that is not valid, or that does not give what the float network gives, in shape."""
    try:
        onnx.checker.check_model(onnx.ModelProto.FromString(data), full_check=True)
    except Exception as error:  # checker and shape inference raise their own kinds
        raise ExportError(f"the quantised network is not valid ONNX: {first_line(error)}") from error
    try:
        narrow, wide = (
            open_bytes(data, "the quantised network"),
            open_bytes(plan.model.SerializeToString(), "the float network"),
        )
        crop = np.repeat(crops[:1], wide.input_shape[0] or 1, axis=0)
        got, expected = narrow(crop), wide(crop)
    except InputError as error:
        raise ExportError(f"the quantised network does not run: {error}", error.hint) from error
    if got.shape != expected.shape or not np.isfinite(got).all():
        raise ExportError(f"the quantised network returns {got.shape}, expected finite numbers of shape {expected.shape}")


def _raised(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """`model` in a later opset."""
    try:
        raised = version_converter.convert_version(model, opset)
    except Exception as error:  # a C++ part that raises RuntimeError and more
        raise ExportError(
            f"the network cannot be converted to opset {opset}, in which int4 weights are written: {first_line(error)}",
            f"export it with opset {opset}, or allow no int4",
        ) from error
    raised.ir_version = max(model.ir_version, onnx.helper.VERSION_TABLE[-1][1] if opset > 21 else 10)
    return raised


def _opset(model: onnx.ModelProto) -> int:
    return next((entry.version for entry in model.opset_import if entry.domain in _STANDARD), 0)


def _is_dynamic(model: onnx.ModelProto) -> bool:
    """Whether batch, height and width may vary."""
    sizes_of = model.graph.input[0].type.tensor_type.shape.dim
    return all(sizes_of[axis].HasField("dim_param") for axis in (0, 2, 3) if axis < len(sizes_of))


def _notes(plan: _Plan, method: str, crops: int) -> Iterator[str]:
    kinds = {entry.layer.name: entry for entry in plan.narrow.values()}
    integer = sum(entry.integer for entry in kinds.values())
    if integer:
        yield f"{integer} layers compute in int8; ranges of activations by {method}, on {crops} crops"
    stored = [name for name, entry in kinds.items() if entry.width == "int8" and not entry.integer]
    if stored:
        yield f"stored in int8, computed in float32, for which onnxruntime has no integer operation: {', '.join(stored)}"
    if any(entry.width == "int4" for entry in kinds.values()):
        yield f"int4 weights: opset {plan.opset}, onnxruntime 1.23 or newer"
