"""The layers of an ONNX file whose weights can be narrowed, found by the names of their weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import onnx

__all__ = ["Layer", "attribute", "find_layers"]

_ENDING = ".weight"
_KINDS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class Layer:
    """A layer and where it is in the file.

    kind          operation of ONNX that uses the weight: Conv, ConvTranspose, Gemm or MatMul
    weight        name of the initializer
    nodes         places of the nodes that use it; more than one where a module is called more than once
    stored        shape in which the weight is written where it is narrow: its own, with the groups of a transposed convolution
                  apart
    scale_shape   shape that makes one scale per output channel broadcast over `stored`
    axis          axis of output channels; None where they lie along two axes, as in a transposed convolution with groups
    """

    name: str
    kind: str
    weight: str
    nodes: tuple[int, ...]
    stored: tuple[int, ...]
    scale_shape: tuple[int, ...]
    axis: int | None

    @property
    def channels(self) -> int:
        """Output channels."""
        return math.prod(self.scale_shape)


def find_layers(graph: onnx.GraphProto) -> dict[str, Layer]:
    """Every layer whose weight is an initializer called `<layer>.weight`, by name, in the order of the nodes."""
    weights = {tensor.name: tensor for tensor in graph.initializer if tensor.name.endswith(_ENDING)}
    places: dict[str, list[int]] = {}
    for place, node in enumerate(graph.node):
        if node.op_type in _KINDS and len(node.input) > 1 and node.input[1] in weights:
            places.setdefault(node.input[1], []).append(place)
    found = {}
    for weight, nodes in places.items():
        node, dims = graph.node[nodes[0]], tuple(weights[weight].dims)
        if len({graph.node[place].op_type for place in nodes}) == 1 and weights[weight].data_type == onnx.TensorProto.FLOAT:
            name = weight.removesuffix(_ENDING)
            found[name] = Layer(name, node.op_type, weight, tuple(nodes), *_shapes(node, dims))
    return found


def _shapes(node: onnx.NodeProto, dims: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...], int | None]:
    """`stored`, `scale_shape` and `axis` of the weight of `node`."""
    groups = int(attribute(node, "group", 1))
    if node.op_type == "ConvTranspose" and groups > 1:
        stored = (groups, dims[0] // groups, *dims[1:])
        return stored, (groups, 1, dims[1], *(1,) * (len(dims) - 2)), None
    last = node.op_type == "MatMul" or (node.op_type == "Gemm" and not attribute(node, "transB", 0))
    axis = len(dims) - 1 if last else int(node.op_type == "ConvTranspose")
    return dims, tuple(size if place == axis else 1 for place, size in enumerate(dims)), axis


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """The value of an attribute of `node`, `default` where it has none of that name."""
    found = next((entry for entry in node.attribute if entry.name == name), None)
    return default if found is None else onnx.helper.get_attribute_value(found)
