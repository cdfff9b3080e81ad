"""The graph with narrow weights and quantised tensors, written as QuantizeLinear and DequantizeLinear (QDQ).

The zero points of weights, which are zero, are left out, and the scale of a bias is computed from the two scales that it is the
product of, which onnxruntime does once, when it opens the file. Weights that are only stored narrow are widened by Cast and Mul
for the same reason: behind DequantizeLinear onnxruntime would widen them in every run, and would not lay them out for its fast
kernels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from qcompress.errors import ExportError
from qcompress.exporters.qdq_layers import Layer
from qcompress.exporters.qdq_placement import ENDS, SAME, Graph, Placement
from qcompress.exporters.qdq_weights import Grid

__all__ = ["Narrow", "Ranges", "origin", "part_of", "write_nodes"]

Ranges = Mapping[str, tuple[float, float]]
"""Least and largest value, by tensor."""

_SEPARATOR = "\x1f"  # in no name that an exporter writes
_LEVELS = 255  # of an unsigned byte, above zero
_MOST_INT32 = 2**31 - 1
_ROUNDED_BY_RUNTIME = ("Conv", "ConvTranspose", "Gemm")


@dataclass(frozen=True, eq=False)
class Narrow:
    """A layer that is not float32: its weight, float16 or on a grid, and whether it computes in integers."""

    layer: Layer
    weight: Grid | NDArray[np.float16]
    width: str
    integer: bool


def write_nodes(
    graph: Graph, placement: Placement, ranges: Ranges, narrow: Mapping[str, Narrow]
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """The nodes and the constants of the new graph; `narrow` maps weights, by name, to what becomes of them.

    Raises ExportError for scales with which a bias does not fit into 32 bits.
    """
    writer = _Writer(graph, placement, {name: _grid(name, placement, ranges) for name in placement.grid_of.values()})
    if any(name in placement.unsigned for name in placement.grid_of.values()):
        writer.keep(0, np.uint8, part_of("", "z"))  # the zero point of all that cannot be negative
    for entry in narrow.values():
        writer.write_weight(entry)
    for value in graph.graph.input:
        writer.quantise(value.name)
    for number in range(len(graph.graph.node)):
        writer.write_node(number, narrow)
    used = {name for node in writer.nodes for name in node.input}
    others = [tensor for name, tensor in graph.constants.items() if name not in narrow and name in used]
    return writer.nodes, [*others, *writer.constants]


def part_of(name: str, part: str) -> str:
    """A name for something that belongs to the tensor `name`: its scale, say."""
    return f"{name}{_SEPARATOR}{part}"


def origin(name: str) -> str:
    """The tensor that `name` belongs to."""
    return name.partition(_SEPARATOR)[0]


def _grid(name: str, placement: Placement, ranges: Ranges) -> tuple[np.float32, int]:
    """Scale and zero point of a tensor: zero itself is always on the grid."""
    ceiling = placement.ceilings.get(name, np.inf)
    low = 0.0 if name in placement.unsigned else min(ranges[name][0], 0.0)
    high = min(max(ranges[name][1], 0.0), ceiling)
    scale = np.float32((high - low) / _LEVELS)
    if not (np.isfinite(scale) and scale >= np.finfo(np.float32).tiny):
        scale = np.float32(1)  # of a tensor that is zero on all images
    while scale * np.float32(_LEVELS) > ceiling > 0:  # by a last bit: else what cuts there would not be superfluous
        scale = np.nextafter(scale, np.float32(0))
    return scale, int(np.clip(np.rint(-low / scale), 0, _LEVELS))


@dataclass(eq=False)
class _Writer:
    """What has been written, and under which name a tensor is read: by integer nodes, and by the others."""

    graph: Graph
    placement: Placement
    grids: Mapping[str, tuple[np.float32, int]]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    integers: dict[str, str] = field(default_factory=dict)
    floats: dict[str, str] = field(default_factory=dict)
    scales: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def add(self, kind: str, inputs: list[str], output: str, **attributes: int | None) -> str:
        """Write a node; the name of its output."""
        node = helper.make_node(kind, inputs, [output])
        node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items() if value is not None)
        self.nodes.append(node)
        return output

    def keep(self, value: Any, kind: type[np.generic], name: str) -> str:
        """Write a constant; its name."""
        self.constants.append(numpy_helper.from_array(np.asarray(value, kind), name))
        return name

    def quantise(self, name: str, source: str | None = None) -> None:
        """Write QuantizeLinear and DequantizeLinear behind the tensor `name`, which was written as `source`."""
        if name not in self.placement.grid_of:
            return
        root = self.placement.grid_of[name]
        unsigned = root in self.placement.unsigned
        grid = [part_of(root, "s"), part_of("", "z") if unsigned else part_of(root, "z")]
        if root == name:
            self.keep(self.grids[name][0], np.float32, grid[0])
            if not unsigned:
                self.keep(self.grids[name][1], np.uint8, grid[1])
        result = name if source is not None and name in self.graph.outputs else part_of(name, "d")
        source = name if source is None else source
        if self._would_be_rounded(name):
            source = self.add("Max", [source], part_of(name, "m"))
        self.add("QuantizeLinear", [source, *grid], part_of(name, "q"))
        self.integers[name] = self.add("DequantizeLinear", [part_of(name, "q"), *grid], result)
        if name in self.placement.inside:
            self.floats[name] = result

    def _would_be_rounded(self, name: str) -> bool:
        """Whether onnxruntime would round the weights of the layer that writes `name` to one grid of 8 bits.

        It does that to a float layer between DequantizeLinear and QuantizeLinear (its WeightBiasQuantization, since 1.21), and
        what only moves or picks numbers may stand between. Max of one tensor is that tensor, and ends what it looks through.
        """
        nodes, writer = self.graph.graph.node, self.graph.writer
        number = writer.get(name)
        while number is not None and nodes[number].op_type in ENDS:
            number = writer.get(nodes[number].input[0])
        if number is None or number in self.placement.integer or nodes[number].op_type not in _ROUNDED_BY_RUNTIME:
            return False
        source = nodes[number].input[0]
        while source not in self.placement.inside and source in writer and nodes[writer[source]].op_type in SAME:
            source = nodes[writer[source]].input[0]
        return source in self.placement.inside

    def write_node(self, number: int, narrow: Mapping[str, Narrow]) -> None:
        """Write a node of the old graph, and the quantisation of what it writes."""
        old = self.graph.graph.node[number]
        if number in self.placement.dropped:
            before = old.input[0]
            self.quantise(old.output[0], before)
            return
        node = onnx.NodeProto()
        node.CopyFrom(old)
        inside = number in self.placement.integer
        data = set(self.graph.data(number)) if inside else set()
        layer = narrow.get(old.input[1]) if len(old.input) > 1 else None
        for place, name in enumerate(old.input):
            node.input[place] = self.integers[name] if name in data else self.floats.get(name, name)
        if layer is not None and number in layer.layer.nodes:
            node.input[1] = part_of(old.input[1], "d")
            if layer.integer and len(old.input) > 2 and old.input[2]:
                node.input[2] = self._write_bias(number, layer)
        for place, name in enumerate(old.output):
            if name in self.graph.outputs and name in self.placement.inside:
                node.output[place] = part_of(name, "r")
        self.nodes.append(node)
        for name in old.output:
            self.quantise(name, part_of(name, "r") if name in self.graph.outputs and name in self.placement.inside else None)

    def write_weight(self, narrow: Narrow) -> None:
        """Write a narrow weight, and what makes it float32 again."""
        layer, name, weight = narrow.layer, narrow.layer.weight, narrow.weight
        wide = part_of(name, "d")
        if not isinstance(weight, Grid):
            self.keep(weight, np.float16, name)
            self.add("Cast", [name], wide, to=TensorProto.FLOAT)
        elif narrow.integer:
            self.scales[name] = self._fitting(layer, weight)
            self.constants.append(_tensor(name, weight, narrow.width))
            signed = name if narrow.width == "int8" else self.add("Cast", [name], part_of(name, "c"), to=TensorProto.INT8)
            grid = [self.keep(self.scales[name], np.float32, part_of(name, "s"))]
            if layer.kind == "Gemm":  # whose integer kernel wants as many zero points as scales
                grid.append(self.keep(np.zeros(layer.channels), np.int8, part_of(name, "z")))
            self.add("DequantizeLinear", [signed, *grid], wide, axis=layer.axis)
        else:
            self.constants.append(_tensor(name, weight, narrow.width))
            scales = self.keep(weight.scales.reshape(layer.scale_shape), np.float32, part_of(name, "s"))
            self.add("Cast", [name], part_of(name, "c"), to=TensorProto.FLOAT)
            dims = tuple(self.graph.constants[name].dims)
            apart = part_of(name, "g") if dims != layer.stored else wide
            self.add("Mul", [part_of(name, "c"), scales], apart)
            if apart != wide:
                self.add("Reshape", [apart, self.keep(dims, np.int64, part_of(name, "n"))], wide)

    def _fitting(self, layer: Layer, weight: Grid) -> NDArray[np.float32]:
        """The scales; larger ones for channels of zeros, which have any, where the bias would not fit into 32 bits."""
        scales = weight.scales.copy()
        channel = tuple(axis for axis in range(weight.integers.ndim) if axis != layer.axis)
        for number in layer.nodes:
            bias = self._bias(number)
            if bias is None:
                continue
            least = np.abs(bias) / (float(self._input_scale(number)) * _MOST_INT32 * (1 - 1e-6))
            small = scales < least
            if (small & weight.integers.any(channel)).any():
                raise ExportError(
                    f"{layer.name}: a bias is so large beside the weights of its channel that it does not fit into 32 bits",
                    f"keep {layer.name} in float16 or float32",
                )
            scales[small] = 2 * least[small]
        return scales

    def _bias(self, number: int) -> NDArray[np.float64] | None:
        """The bias of a layer, where it has one."""
        node = self.graph.graph.node[number]
        if len(node.input) < 3 or not node.input[2]:
            return None
        return numpy_helper.to_array(self.graph.constants[node.input[2]]).astype(np.float64)

    def _input_scale(self, number: int) -> np.float32:
        return self.grids[self.placement.grid_of[self.graph.graph.node[number].input[0]]][0]

    def _write_bias(self, number: int, narrow: Narrow) -> str:
        """The bias in steps of the product of the scales of input and weight; the name of what makes it float32 again."""
        node = self.graph.graph.node[number]
        bias, name, scales = self._bias(number), part_of(node.input[2], str(number)), self.scales[narrow.layer.weight]
        assert bias is not None
        steps = self._input_scale(number) * scales  # in float32, as Mul does it
        self.keep(np.rint(bias / steps), np.int32, name)
        source = part_of(self.placement.grid_of[node.input[0]], "s")
        self.add("Mul", [source, part_of(narrow.layer.weight, "s")], part_of(name, "s"))
        return self.add("DequantizeLinear", [name, part_of(name, "s")], part_of(name, "d"), axis=0)


def _tensor(name: str, weight: Grid, width: str) -> onnx.TensorProto:
    """Integers as they are stored: two of int4 in a byte, the first in its lower half."""
    if width == "int8":
        return numpy_helper.from_array(weight.integers, name)
    halves = weight.integers.ravel().astype(np.uint8) & 0xF
    halves = np.append(halves, np.zeros(len(halves) % 2, np.uint8))
    packed = (halves[::2] | halves[1::2] << 4).astype(np.uint8)
    return helper.make_tensor(name, TensorProto.INT4, weight.integers.shape, packed.tobytes(), raw=True)
