"""ONNX graphs of opset 18 and later, as torch writes them, said in opset 17, which is what onnx2torch knows."""

from __future__ import annotations

import math

import onnx
from onnx import inliner, numpy_helper, version_converter

from qcompress.errors import ArchitectureError
from qcompress.exporters.base import first_line

__all__ = ["lowered"]

_STANDARD = ("", "ai.onnx")
_NEW, _OLD = 18, 17
_AXES_AS_INPUT = (
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSumSquare",
)
_MOST_AXES = 64  # numbers in a shape; torch's own limit
_NEUTRAL = {"antialias": 0, "keep_aspect_ratio_policy": b"stretch"}  # what Resize has since opset 18, and what changes nothing


def lowered(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """A copy of `model` in opset 17 or below that computes the same; `name` stands for it in errors.

    Raises:
        ArchitectureError: it uses operations that are not ONNX's own, or what opset 17 cannot say.

    """
    try:
        flat = (
            inliner.inline_local_functions(model) if model.functions else onnx.ModelProto.FromString(model.SerializeToString())
        )
        versions = {entry.version for entry in flat.opset_import if entry.domain in _STANDARD}
        flat = version_converter.convert_version(flat, _NEW) if max(versions, default=0) > _NEW else flat
    except Exception as error:  # onnx's C++ parts raise RuntimeError and more
        reason = first_line(error)
        raise ArchitectureError(
            f"{name}: cannot be converted to opset {_NEW}: {reason}", f"export it with opset {_NEW}"
        ) from error
    foreign = next((node for node in flat.graph.node if node.domain not in _STANDARD), None)
    if foreign is not None:
        raise ArchitectureError(f"{name}: the operation {foreign.op_type} of {foreign.domain} is not one of ONNX's own")
    try:
        _restate(flat, name)
    except ArchitectureError:
        raise
    except Exception as error:  # onnxruntime lets pass what nothing depends on, such as constants of other sizes than they say
        raise ArchitectureError(
            f"{name}: cannot be said in opset {_OLD}: {type(error).__name__}: {first_line(error)}"
        ) from error
    return flat


def _restate(flat: onnx.ModelProto, name: str) -> None:
    """Change `flat`, of opset 18 or below, to opset 17 or below."""
    constants = _constants(flat.graph)
    for node in flat.graph.node:
        _check_reshape(node, constants, name)
    if _NEW in {entry.version for entry in flat.opset_import if entry.domain in _STANDARD}:
        for node in flat.graph.node:
            _lower(node, constants, name)
        for entry in flat.opset_import:
            entry.version = _OLD if entry.domain in _STANDARD else entry.version


def _constants(graph: onnx.GraphProto) -> dict[str, list[int]]:
    """Values of the constants of integers that can be axes or shapes: lists of a few."""
    integers = (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
    found = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type in integers}
    for node in graph.node:
        value = _attribute(node, "value") if node.op_type == "Constant" else None
        if value is not None and value.t.data_type in integers:
            found[node.output[0]] = value.t
    few = {name: tensor for name, tensor in found.items() if math.prod(tensor.dims) <= _MOST_AXES}
    return {name: numpy_helper.to_array(tensor).reshape(-1).tolist() for name, tensor in few.items()}


def _check_reshape(node: onnx.NodeProto, constants: dict[str, list[int]], name: str) -> None:
    """Without a size of 0 in it, a shape means the same with and without allowzero."""
    flag = _attribute(node, "allowzero") if node.op_type == "Reshape" else None
    if flag is not None:
        if flag.i and 0 in constants.get(node.input[1], []):
            raise ArchitectureError(f"{name}: {node.name or 'Reshape'} makes an empty tensor")
        node.attribute.remove(flag)


def _lower(node: onnx.NodeProto, constants: dict[str, list[int]], name: str) -> None:
    if onnx.defs.get_schema(node.op_type, _NEW).since_version < _NEW:
        return
    if node.op_type in _AXES_AS_INPUT:
        _lower_reduction(node, constants, name)
    elif node.op_type == "Split":
        _drop(node, "num_outputs")
    elif node.op_type == "Pad" and not any(node.input[3:]):
        del node.input[3:]
    elif node.op_type == "Resize" and _attribute(node, "axes") is None and _is_plain(node):
        for attribute in _NEUTRAL:
            _drop(node, attribute)
    else:
        raise ArchitectureError(f"{name}: the operation {node.op_type} is used in a way that is new in opset {_NEW}")


def _lower_reduction(node: onnx.NodeProto, constants: dict[str, list[int]], name: str) -> None:
    if any(node.input[1:]):
        axes = constants.get(node.input[1])
        if not axes:
            raise ArchitectureError(f"{name}: the axes of {node.op_type} are computed, expected constants")
        node.attribute.append(onnx.helper.make_attribute("axes", axes))
    elif (flag := _attribute(node, "noop_with_empty_axes")) is not None and flag.i:
        raise ArchitectureError(f"{name}: {node.op_type} reduces nothing, expected axes")
    del node.input[1:]
    _drop(node, "noop_with_empty_axes")


def _is_plain(node: onnx.NodeProto) -> bool:
    found = ((attribute, _attribute(node, attribute)) for attribute in _NEUTRAL)
    return all(got is None or onnx.helper.get_attribute_value(got) == _NEUTRAL[attribute] for attribute, got in found)


def _attribute(node: onnx.NodeProto, name: str) -> onnx.AttributeProto | None:
    return next((attribute for attribute in node.attribute if attribute.name == name), None)


def _drop(node: onnx.NodeProto, name: str) -> None:
    attribute = _attribute(node, name)
    if attribute is not None:
        node.attribute.remove(attribute)
