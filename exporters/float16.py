"""Weights of an ONNX model stored in half precision: half the size, the same arithmetic.

A weight is followed by a cast to float32, which onnxruntime carries out once, when it opens the file: so it is no slower, and
no faster. What float16 cannot hold stays float32: numbers above 65,504, and tensors so small that a cast would take more room.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

__all__ = ["store_float16"]

_LEAST_NUMBERS = 128  # of a tensor that is worth a node of its own
_LARGEST = float(np.finfo(np.float16).max)


def store_float16(model: onnx.ModelProto) -> None:
    """Change `model`: its large float32 initializers become float16, each with a Cast behind it."""
    graph, casts = model.graph, []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values, name = numpy_helper.to_array(tensor), tensor.name
        if values.size < _LEAST_NUMBERS or not float(np.abs(values).max()) <= _LARGEST:  # NaN stays, too
            continue
        half = f"{name}.float16"
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), half))
        casts.append(onnx.helper.make_node("Cast", [half], [name], name=f"{name}.cast", to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
