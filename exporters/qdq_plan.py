"""From widths to a graph: what becomes of each layer, where tensors are quantised, and the model once ranges are known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import numpy_helper, version_converter

from qcompress.errors import ExportError, UsageError
from qcompress.exporters import external_data
from qcompress.exporters.compacting import compact
from qcompress.exporters.qdq_layers import Layer, attribute, find_layers
from qcompress.exporters.qdq_placement import Graph, Placement, place
from qcompress.exporters.qdq_weights import INTEGERS, to_grid
from qcompress.exporters.qdq_writing import Narrow, Ranges, origin, write_nodes
from qcompress.exporters.runtime import first_line
from qcompress.widths import BITS

__all__ = ["Plan", "Scales", "built", "planned"]

Scales = Mapping[str, ArrayLike]
"""Scales of weights, (out,), by layer."""

_STANDARD = ("", "ai.onnx")
_OPSETS = {"int8": 13, "int4": 21}  # the first in which a width can be written: scales by channel, the type INT4
_LEAST_IR = 10  # of files with the type INT4


@dataclass(frozen=True, eq=False)
class Plan:
    """What is to be written, short of the ranges of activations; `narrow` by the name of the weight.

    `raised` says that the file had an earlier opset.
    """

    model: onnx.ModelProto
    layers: Mapping[str, Layer]
    narrow: Mapping[str, Narrow]
    graph: Graph
    placement: Placement
    opset: int
    raised: bool

    @property
    def watched(self) -> list[str]:
        """The tensors whose ranges are needed."""
        return [name for name, root in self.placement.grid_of.items() if name == root]


def planned(float_path: Path, widths: Mapping[str, str], scales: Scales, *, integer_int4: bool) -> Plan:
    """What to write for the layers in `widths`. Raises InputError, UsageError and ExportError as `qdq.quantise`."""
    data, external = external_data.read(float_path)
    model = onnx.load_model(str(float_path)) if external else onnx.ModelProto.FromString(data)
    if model.functions or any(entry.g.node or entry.graphs for node in model.graph.node for entry in node.attribute):
        raise ExportError(f"{float_path}: it has functions or graphs inside nodes, which are not quantised")
    layers = find_layers(model.graph)
    _check_widths(widths, scales, layers, float_path)
    before = _opset(model)
    opset = max([before, *(_OPSETS.get(width, 0) for width in widths.values())])
    if opset > before:
        model = _raised(model, opset)
        layers = find_layers(model.graph)
    graph = Graph(model.graph)
    narrow = {
        layers[name].weight: _narrow(graph, layers[name], width, scales.get(name), integer_int4)
        for name, width in widths.items()
        if width != "float32"
    }
    integer = [number for entry in narrow.values() if entry.integer for number in entry.layer.nodes]
    return Plan(model, layers, narrow, graph, place(graph, integer), opset, raised=opset > before)


def _check_widths(widths: Mapping[str, str], scales: Scales, layers: Mapping[str, Layer], path: Path) -> None:
    for name, width in widths.items():
        if width not in BITS:
            raise UsageError(f"width {width!r} of {name} is not known, expected one of {', '.join(BITS)}")
        if name not in layers:
            raise UsageError(
                f"{path}: no convolution, linear layer or transposed convolution has a weight called {name}.weight",
                "fold BatchNorm and export the network with export_onnx, which keeps the names of weights",
            )
    unused = [name for name in scales if widths.get(name) not in INTEGERS]
    if unused:
        raise UsageError(f"scales for {', '.join(unused)}, expected layers that are {' or '.join(INTEGERS)}")


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


def built(plan: Plan, ranges: Ranges, metadata: Mapping[str, str]) -> tuple[onnx.ModelProto, dict[str, str]]:
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


def _raised(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """`model` in a later opset."""
    try:
        raised = version_converter.convert_version(model, opset)
    except Exception as error:  # a C++ part that raises RuntimeError and more
        raise ExportError(
            f"the network cannot be converted to opset {opset}, which its widths need: {first_line(error)}",
            f"export it with opset {opset}, or allow no int4",
        ) from error
    raised.ir_version = max(model.ir_version, _LEAST_IR)
    return raised


def _opset(model: onnx.ModelProto) -> int:
    return next((entry.version for entry in model.opset_import if entry.domain in _STANDARD), 0)
