"""A smaller file of the same network: short names, and nothing that is known without it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import onnx

__all__ = ["compact"]

_SAID_BY_SHAPE = ("Conv", "ConvTranspose")  # their kernel_shape is that of the weight
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_LEAKS = ("doc_string", "metadata_props")


def compact(model: onnx.ModelProto, kept: frozenset[str]) -> None:
    """Drop default attributes, known shapes, documentation and the names of nodes; shorten the names of tensors.

    The names in `kept`, those of inputs and outputs and the metadata of the model stay. The nodes hold no graphs.
    """
    graph = model.graph
    for tensor in graph.initializer:
        _clear(tensor)
    for node in graph.node:
        _clear(node)
        node.ClearField("name")
        _drop_defaults(node, model)
    del graph.value_info[:]
    _clear(graph)
    model.ClearField("doc_string")
    fixed = kept | {value.name for value in (*graph.input, *graph.output)} | {""}
    fresh = (name for name in _names() if name not in fixed)
    short: dict[str, str] = {}
    for node in graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name not in fixed:
                    short.setdefault(name, "")
                    short[name] = short[name] or next(fresh)
                    names[place] = short[name]
    for tensor in graph.initializer:
        tensor.name = short.get(tensor.name, tensor.name)


def _names() -> Iterator[str]:
    """a, b, ... z, aa, ab, ..."""
    for length in itertools.count(1):
        yield from map("".join, itertools.product(_LETTERS, repeat=length))


def _clear(message: onnx.NodeProto | onnx.TensorProto | onnx.GraphProto) -> None:
    for field in _LEAKS:
        if any(known.name == field for known, _ in message.ListFields()):
            message.ClearField(field)


def _drop_defaults(node: onnx.NodeProto, model: onnx.ModelProto) -> None:
    """Remove attributes that say what holds without them."""
    if node.domain not in ("", "ai.onnx"):
        return
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    known = onnx.defs.get_schema(node.op_type, opset).attributes
    for entry in list(node.attribute):
        value = onnx.helper.get_attribute_value(entry)
        ones = entry.name in ("strides", "dilations") and all(size == 1 for size in value)
        zeros = entry.name in ("pads", "output_padding") and node.op_type in _SAID_BY_SHAPE and not any(value)
        shape = entry.name == "kernel_shape" and node.op_type in _SAID_BY_SHAPE
        default = entry.name in known and known[entry.name].default_value
        said = default and default.type and onnx.helper.get_attribute_value(default) == value
        if ones or zeros or shape or said:
            node.attribute.remove(entry)
