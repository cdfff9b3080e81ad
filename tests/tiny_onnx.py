"""ONNX files of one node, written by hand: exporting a module takes seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper


def write_onnx(
    path: Path, operation: str, constant: NDArray[np.float32], shape: tuple[str | int, ...], **metadata: str
) -> Path:
    """A file that does `operation` (Sub, Mul ...) to its input of `shape` and the constant."""
    node = helper.make_node(operation, ["input", "constant"], ["output"])
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("input", "output")]
    graph = helper.make_graph([node], "tiny", sides[:1], sides[1:], [numpy_helper.from_array(constant, "constant")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    for key, value in metadata.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))
    return path
