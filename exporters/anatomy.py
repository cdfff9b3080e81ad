"""What an ONNX file is made of: which node is which layer, at which sizes, and whose channels every other node works on.

Layers keep their names in the file's weights. Whatever lies between them has as many channels as the layers that feed it:
`sources` names those, so that what a node costs can follow what they keep.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from qcompress.errors import ExportError
from qcompress.groups import Layer

__all__ = ["Anatomy", "Call", "Operation", "Weight", "dissect"]

Shape = tuple[int, ...]

_CALLS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_MIXING = ("conv", "conv_transpose", "depthwise", "linear")
_FREE = ("Constant", "Identity", "Shape", "Cast", "Flatten", "Reshape", "Squeeze", "Unsqueeze")  # move nothing


@dataclass(frozen=True, eq=False)
class Call:
    """A node that computes `layer`, on an input of shape `given` to one of shape `returned`, batch of 1 included.

    `open_in`: its input is the network's own, or made of it without a layer; `biased`: it has a bias.
    """

    layer: str
    node: Any
    given: Shape
    returned: Shape
    biased: bool
    open_in: bool


@dataclass(frozen=True, eq=False)
class Operation:
    """Any other node: its inputs that are computed have the shapes `given`; `sources` are the layers whose channels it sees.

    `direct` says of each input whether it comes straight from a layer: a runtime fuses some operations into that.
    """

    node: Any
    given: tuple[Shape, ...]
    direct: tuple[bool, ...]
    returned: Shape
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Weight:
    """A constant of `size` numbers of four bytes. It shrinks with both sides of `layer`, with its outputs, or not at all."""

    size: int
    layer: str | None
    both: bool = False


@dataclass(frozen=True, eq=False)
class Anatomy:
    """All nodes in order, and all constants."""

    model: onnx.ModelProto
    calls: tuple[Call, ...]
    operations: tuple[Operation, ...]
    weights: tuple[Weight, ...]


def dissect(data: bytes, layers: Sequence[Layer], shape: Shape) -> Anatomy:
    """The parts of the network in the ONNX bytes `data`, for an input of `shape`; `layers` in the order of execution.

    Raises ExportError where shapes cannot be inferred, or a layer that mixes channels has no node.
    """
    model = onnx.ModelProto.FromString(data)
    sizes = model.graph.input[0].type.tensor_type.shape.dim
    for size, value in zip(sizes, shape, strict=True):
        size.Clear()
        size.dim_value = value
    try:
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except Exception as error:  # the checker's exceptions have no common base
        raise ExportError(f"sizes inside the network cannot be told: {str(error).splitlines()[0][:200]}") from error
    return _Reader(model, layers).read()


class _Reader:
    """One pass over the nodes, in order."""

    def __init__(self, model: onnx.ModelProto, layers: Sequence[Layer]) -> None:
        self.model = model
        self.layers = {layer.name: layer for layer in layers}
        self.left = [layer for layer in layers if layer.kind in _MIXING]  # not met yet, in the order of execution
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.shapes = {value.name: _dims(value) for value in (*model.graph.value_info, *model.graph.output)}
        self.shapes[model.graph.input[0].name] = _dims(model.graph.input[0])
        self.sources: dict[str, tuple[str, ...]] = {model.graph.input[0].name: ()}
        self.named: dict[str, str] = {}  # weight -> layer
        self.returned: set[str] = set()  # by layers

    def read(self) -> Anatomy:
        calls, operations = [], []
        for node in self.model.graph.node:
            computed = [name for name in node.input if name in self.sources]
            layer = self._layer(node) if len(computed) == 1 and node.op_type in _CALLS else None
            if layer is not None:
                calls.append(self._call(node, layer, computed[0]))
                self.sources[node.output[0]] = (layer.name,)
                self.returned.add(node.output[0])
                continue
            sources = self._sources(node, computed)
            for name in node.output:
                self.sources[name] = sources
            if computed and node.op_type not in _FREE and node.output[0] in self.shapes:
                given = tuple(self.shapes.get(name, ()) for name in computed)
                direct = tuple(name in self.returned for name in computed)
                operations.append(Operation(node, given, direct, self.shapes[node.output[0]], sources))
        missing = [layer.name for layer in self.left if layer.positions]
        if missing:
            raise ExportError(f"layer {missing[0]} is not found in the ONNX file", "prune by another --budget")
        return Anatomy(self.model, tuple(calls), tuple(operations), tuple(self._weights()))

    def _call(self, node: Any, layer: Layer, given: str) -> Call:
        biased = len(node.input) > 2 and bool(node.input[2])
        return Call(layer.name, node, self.shapes[given], self.shapes[node.output[0]], biased, not self.sources[given])

    def _layer(self, node: Any) -> Layer | None:
        """The layer whose weight the node has: by the weight's name, else the next one that it fits."""
        weight = next((name for name in node.input if name in self.constants), None)
        if weight is None:
            return None
        name = self.named.get(weight) or _owner(weight, self.layers)
        if name is None or self.layers[name].kind not in _MIXING:
            size = math.prod(self.constants[weight].dims)
            name = next((layer.name for layer in self.left if _weight_size(layer) == size), None)
        if name is None:
            return None
        self.named[weight] = name
        self.left = [layer for layer in self.left if layer.name != name]
        return self.layers[name]

    def _sources(self, node: Any, computed: Sequence[str]) -> tuple[str, ...]:
        """The layers that feed the node: of a concatenation all; else of the input that is as wide as its output."""
        if node.op_type == "Concat" or len(computed) < 2:
            found = [self.sources[name] for name in computed]
        else:
            wide = self.shapes.get(node.output[0], ())[1:2]
            alike = [name for name in computed if self.shapes.get(name, ())[1:2] == wide]
            found = [next((self.sources[name] for name in (*alike, *computed) if self.sources[name]), ())]
        return tuple(layer for sources in found for layer in sources)

    def _weights(self) -> Iterator[Weight]:
        for name, tensor in self.constants.items():
            if tensor.data_type != onnx.TensorProto.FLOAT:
                continue
            size, owner = math.prod(tensor.dims), self.named.get(name) or _owner(name, self.layers)
            layer = self.layers.get(owner or "")
            if layer is not None and layer.kind in _MIXING and size == _weight_size(layer):
                yield Weight(size, layer.name, both=True)
            elif layer is not None and size == layer.outputs:
                yield Weight(size, layer.name)
            else:
                yield Weight(size, None)


def _owner(name: str, layers: dict[str, Layer]) -> str | None:
    """The layer that a weight of this name belongs to."""
    return next((part for part in (name, name.rpartition(".")[0]) if part in layers), None)


def _weight_size(layer: Layer) -> int:
    return layer.params(layer.inputs, layer.outputs) - (layer.outputs if layer.bias else 0)


def _dims(value: Any) -> Shape:
    return tuple(size.dim_value for size in value.type.tensor_type.shape.dim)
