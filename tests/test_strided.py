"""Slices with steps as pooling, for pnnx: the same numbers, and nothing else is touched."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from qcompress.exporters.runtime import open_bytes
from qcompress.exporters.strided import pooled

OPEN = 2**63 - 1


def sliced(starts: list[int], ends: list[int], axes: list[int], steps: list[int], *, constant: bool = False) -> onnx.ModelProto:
    """An ONNX file of one Slice of (1, 2, 7, 9), its numbers as initializers or as nodes."""
    values = {
        name: np.array(value)
        for name, value in zip(("starts", "ends", "axes", "steps"), (starts, ends, axes, steps), strict=True)
    }
    tensors = [numpy_helper.from_array(value, name) for name, value in values.items()]
    nodes = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in tensors if constant]
    nodes.append(helper.make_node("Slice", ["input", *values], ["output"]))
    given = helper.make_tensor_value_info("input", TensorProto.FLOAT, (1, 2, 7, 9))
    result = helper.make_tensor_value_info("output", TensorProto.FLOAT, (None, None, None, None))
    graph = helper.make_graph(nodes, "slice", [given], [result], [] if constant else tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def computed(model: onnx.ModelProto) -> NDArray[np.float32]:
    image = np.random.default_rng(0).normal(size=(1, 2, 7, 9)).astype(np.float32)
    return open_bytes(model.SerializeToString(), "slice")(image)


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize(("axes", "steps"), [([2], [2]), ([3], [3]), ([2, 3], [2, 2]), ([-1, -2], [3, 2]), ([2, 3], [1, 4])])
def test_steps_become_strides(axes: list[int], steps: list[int], constant: bool) -> None:
    model = sliced([0] * len(axes), [OPEN] * len(axes), axes, steps, constant=constant)
    changed = pooled(model)
    assert changed.graph.node[-1].op_type == "MaxPool"
    assert model.graph.node[-1].op_type == "Slice"
    onnx.checker.check_model(changed, full_check=True)
    np.testing.assert_array_equal(computed(changed), computed(model))


@pytest.mark.parametrize(
    ("starts", "ends", "axes", "steps"),
    [
        ([1], [OPEN], [2], [2]),  # begins elsewhere
        ([0], [5], [2], [2]),  # ends before
        ([0], [OPEN], [1], [2]),  # channels
        ([0, 0], [OPEN, OPEN], [1, 2], [1, 2]),  # these, too
        ([0], [OPEN], [2], [1]),  # no steps
        ([-1], [-(2**62)], [3], [-1]),  # backwards
    ],
)
def test_other_slices_stay(starts: list[int], ends: list[int], axes: list[int], steps: list[int]) -> None:
    model = sliced(starts, ends, axes, steps)
    assert pooled(model) == model
