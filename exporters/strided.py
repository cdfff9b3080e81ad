"""Every second row and column of an image, which pnnx drops without a word, as what ncnn knows: pooling over single pixels.

x[:, :, ::s, ::t] is the maximum over windows of one pixel, s rows and t columns apart: the same numbers, to the last bit. It is
the shortcut of residual networks that have no weights in it (He et al., arXiv 1512.03385, option A).
"""

from __future__ import annotations

from typing import Any

import onnx
from onnx import helper, numpy_helper

__all__ = ["pooled"]

_ROWS, _COLUMNS = 2, 3  # axes of (N, C, H, W)
_OPEN = 2**31 - 1  # from here on an end is the tensor's own


def pooled(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` with a MaxPool for every Slice that takes all of an image but for its steps; other slices stay."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    ranks, numbers = _ranks(changed), _numbers(changed)
    for node in changed.graph.node:
        strides = _strides(node, numbers) if node.op_type == "Slice" and ranks.get(node.input[0]) == 4 else None
        if strides is not None:
            node.CopyFrom(
                helper.make_node(
                    "MaxPool", node.input[:1], node.output, name=node.name, kernel_shape=[1, 1], strides=list(strides)
                )
            )
    return changed


def _strides(node: Any, numbers: dict[str, list[int]]) -> tuple[int, int] | None:
    """The steps of rows and columns of a Slice of (N, C, H, W); None where it does anything else."""
    given = [numbers[name] for name in node.input[1:] if name in numbers]
    if len(given) != 4:
        return None
    steps = {_ROWS: 1, _COLUMNS: 1}
    for start, end, axis, step in zip(*given, strict=True):
        if start != 0 or end < _OPEN or step < 1 or axis % 4 not in steps:
            return None
        steps[axis % 4] = step
    return (steps[_ROWS], steps[_COLUMNS]) if max(steps.values()) > 1 else None


def _ranks(model: onnx.ModelProto) -> dict[str, int]:
    """How many axes tensors have, by name, where that can be told."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    known = (*graph.input, *graph.value_info, *graph.output)
    return {value.name: len(value.type.tensor_type.shape.dim) for value in known if value.type.tensor_type.HasField("shape")}


def _numbers(model: onnx.ModelProto) -> dict[str, list[int]]:
    """Constant vectors of whole numbers, by name."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    vectors = {name: tensor for name, tensor in constants.items() if tensor.data_type == onnx.TensorProto.INT64}
    return {name: numpy_helper.to_array(tensor).ravel().tolist() for name, tensor in vectors.items() if len(tensor.dims) == 1}
