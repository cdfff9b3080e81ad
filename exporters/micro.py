"""Small ONNX models to time: one layer at other widths, one operation, a whole network without its weights.

What a layer costs depends on the layout that its neighbours leave: ONNX Runtime keeps activations in blocks of channels
between convolutions. So a layer is timed between two light convolutions, from one channel and to one, and those are timed by
themselves (`carrier`), so that they can be taken off. Weights are constants that a graph makes itself, so that a model has a
few hundred bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import TensorProto, helper

from qcompress.exporters.anatomy import Anatomy, Call, Operation, Shape
from qcompress.groups import Layer

__all__ = ["Micro", "carrier", "layer", "operation", "whole"]

_OPSET, _IR = 18, 8
_LARGEST_KEPT = 64  # numbers of a constant that is written out: sizes and scales, not weights


@dataclass(frozen=True)
class Micro:
    """A model with the input "input" of `shape`, float32."""

    data: bytes
    shape: Shape


class _Builder:
    """A graph in the making."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.inputs: dict[str, Shape] = {}

    def weight(self, name: str, shape: Sequence[int], size: float = 1.0) -> str:
        """A constant of this shape, all entries alike, so large that sums over it keep their size, or `size` of it."""
        value = size / max(1, math.prod(shape[1:]))
        self.constants.append(helper.make_tensor(f"{name}.shape", TensorProto.INT64, [len(shape)], list(shape)))
        filled = helper.make_tensor("value", TensorProto.FLOAT, [1], [value])
        self.nodes.append(helper.make_node("ConstantOfShape", [f"{name}.shape"], [name], value=filled))
        return name

    def spread(self, given: str, channels: int, name: str, *, bare: bool = False, size: float = 1.0) -> str:
        """`channels` from one, as a convolution leaves them, or with an activation behind it unless `bare`.

        ONNX Runtime computes what is written twice once: those that are to be two tensors have weights of another `size`.
        """
        weight = self.weight(f"{name}.spread", (channels, 1, 1, 1), size)
        self.nodes.append(helper.make_node("Conv", [given, weight], [f"{name}.before"], kernel_shape=[1, 1]))
        if bare:
            return f"{name}.before"
        self.nodes.append(helper.make_node("Relu", [f"{name}.before"], [f"{name}.wide"]))
        return f"{name}.wide"

    def gather(self, given: str, channels: int, name: str = "gather") -> str:
        """One channel from `channels`, by a convolution; of one with another name the weights are others."""
        weight = self.weight(name, (1, channels, 1, 1), 1.0 if name == "gather" else 0.5)
        self.nodes.append(helper.make_node("Conv", [given, weight], [f"{name}.one"], kernel_shape=[1, 1]))
        return f"{name}.one"

    def done(self, shape: Shape, output: str) -> Micro:
        """The model from "input" of `shape` to `output`."""
        given = helper.make_tensor_value_info("input", TensorProto.FLOAT, list(shape))
        returned = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "timed", [given], [returned], self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
        return Micro(model.SerializeToString(), shape)


def carrier(channels: int, sides: Shape, *, twice: bool = False) -> Micro:
    """The two light convolutions around a layer or an operation, with nothing between them; `twice`: the second two times.

    The difference is what the second takes.
    """
    builder = _Builder()
    wide = builder.spread("input", channels, "input")
    one = builder.gather(wide, channels)
    if not twice:
        return builder.done((1, 1, *sides), one)
    builder.nodes.append(helper.make_node("Add", [one, builder.gather(wide, channels, "again")], ["sum"]))
    return builder.done((1, 1, *sides), "sum")


def layer(call: Call, kept: Layer, *, spread: bool, gather: bool) -> Micro:
    """The layer of `call` with the channels and divisions of `kept`, between light convolutions where so asked."""
    builder, node = _Builder(), onnx.NodeProto.FromString(call.node.SerializeToString())
    shape = _with_channels(call.given, kept.inputs, node)
    start = "input"
    if spread:
        shape = (1, 1, *call.given[2:])
        start = builder.spread("input", kept.inputs, "input")
    dims = _weight_dims(node, kept, _dims_of(call))
    inputs = [start, builder.weight("weight", dims)]
    inputs += [builder.weight("bias", (kept.outputs,))] if call.biased else []
    node.name = ""
    del node.input[:], node.output[:]
    node.input.extend(inputs)
    node.output.append("output")
    _set_group(node, kept)
    builder.nodes.append(node)
    if not gather:
        return builder.done(shape, "output")
    builder.nodes.append(helper.make_node("Relu", ["output"], ["output.relu"]))
    return builder.done(shape, builder.gather("output.relu", kept.outputs))


def operation(found: Operation, model: onnx.ModelProto) -> Micro:
    """The operation at its dense widths, each 4-dimensional input spread from one channel, its output gathered to one.

    Others are the model's own input. Raises ValueError for an operation that cannot be cut out of its network.
    """
    builder, node = _Builder(), onnx.NodeProto.FromString(found.node.SerializeToString())
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    shapes = list(found.given)
    if len(set(shapes)) != 1 and not all(len(shape) == 4 for shape in shapes):
        raise ValueError(f"{node.op_type} has inputs of several shapes")
    largest = max(shapes, key=math.prod)
    given, number = list(node.input), 0
    for place, name in enumerate(given):
        if not name or name in constants:
            if name:
                builder.constants.append(constants[name])
            continue
        shape = shapes[number] if number < len(shapes) else ()
        number += 1
        if len(shape) != 4:
            node.input[place] = "input"
        elif shape[2:] == largest[2:]:
            direct, size = found.direct[number - 1], 1 / number
            node.input[place] = builder.spread("input", shape[1], f"given{place}", bare=direct, size=size)
        else:
            raise ValueError(f"{node.op_type} has inputs of several sizes")
    if number != len(shapes):
        raise ValueError(f"{node.op_type} has inputs that are not known")
    node.name = ""
    del node.output[:]
    node.output.append("output")
    builder.nodes.append(node)
    shape = (1, 1, *largest[2:]) if len(largest) == 4 else largest
    if len(found.returned) != 4:
        return builder.done(shape, node.output[0])
    return builder.done(shape, builder.gather(node.output[0], found.returned[1]))


def whole(anatomy: Anatomy, layers: Mapping[str, Layer], kept: Mapping[str, Layer]) -> Micro:
    """The network with its layers as in `kept`, its weights made by the graph itself.

    What the graph has written into it of channel counts stays: where that does not fit, the model does not run.
    """
    model = onnx.ModelProto.FromString(anatomy.model.SerializeToString())
    graph, builder = model.graph, _Builder()
    given = graph.input[0]
    shape = tuple(size.dim_value for size in given.type.tensor_type.shape.dim)
    calls = {call.node.output[0]: call for call in anatomy.calls}
    new: dict[str, Shape] = {}
    for node in graph.node:
        call = calls.get(node.output[0])
        if call is not None:
            weight = next(name for name in node.input if any(name == tensor.name for tensor in graph.initializer))
            new[weight] = _weight_dims(node, kept[call.layer], _dims_of(call))
            _set_group(node, kept[call.layer])
    constants = list(graph.initializer)
    del graph.initializer[:], graph.value_info[:]
    for tensor, weight in zip(constants, _owners(anatomy, constants), strict=True):
        dims = new.get(tensor.name) or _narrowed(tuple(tensor.dims), weight, layers, kept)
        if tensor.data_type != TensorProto.FLOAT or (dims == tuple(tensor.dims) and math.prod(dims) <= _LARGEST_KEPT):
            graph.initializer.append(tensor)
        else:
            builder.weight(tensor.name, dims)
    nodes = [*builder.nodes, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(builder.constants)
    graph.output[0].type.tensor_type.ClearField("shape")
    _rename_input(graph, given.name)
    return Micro(model.SerializeToString(), shape)


def _owners(anatomy: Anatomy, constants: Sequence[Any]) -> list[str | None]:
    """Per constant the layer whose outputs it has a number for each, if any."""
    owners = iter(anatomy.weights)
    return [next(owners).layer if tensor.data_type == TensorProto.FLOAT else None for tensor in constants]


def _narrowed(dims: Shape, owner: str | None, layers: Mapping[str, Layer], kept: Mapping[str, Layer]) -> Shape:
    if owner is None:
        return dims
    return tuple(kept[owner].outputs if size == layers[owner].outputs else size for size in dims)


def _rename_input(graph: Any, name: str) -> None:
    graph.input[0].name = "input"
    for node in graph.node:
        for place, given in enumerate(node.input):
            if given == name:
                node.input[place] = "input"


def _dims_of(call: Call) -> Shape:
    """Sides of the kernel."""
    return tuple(next((list(attribute.ints) for attribute in call.node.attribute if attribute.name == "kernel_shape"), ()))


def _weight_dims(node: Any, kept: Layer, kernel: Shape) -> Shape:
    """Of the node's weight, for a layer with the channels of `kept`."""
    inputs, outputs = kept.inputs, kept.outputs
    if node.op_type == "Conv":
        return (outputs, inputs // kept.divisions, *kernel)
    if node.op_type == "ConvTranspose":
        return (inputs, outputs // kept.divisions, *kernel)
    turned = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return (outputs, inputs) if turned else (inputs, outputs)


def _set_group(node: Any, kept: Layer) -> None:
    for attribute in node.attribute:
        if attribute.name == "group":
            attribute.i = kept.divisions


def _with_channels(shape: Shape, channels: int, node: Any) -> Shape:
    """The shape of a layer's input, for so many channels: the last axis of matrix products, the second of convolutions."""
    if node.op_type in ("Gemm", "MatMul"):
        return (*shape[:-1], channels)
    return (shape[0], channels, *shape[2:])
