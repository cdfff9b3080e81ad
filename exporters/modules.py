"""From an ONNX file to modules that can be pruned: converted by onnx2torch (an extra), and held against onnxruntime."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from qcompress import seeds
from qcompress.errors import ArchitectureError, InputError
from qcompress.exporters import external_data, lowering
from qcompress.exporters.base import first_line
from qcompress.exporters.runtime import Network, open_onnx

__all__ = ["INSTALL", "is_onnx", "named", "to_module"]

INSTALL = "pip install 'qcompress[onnx-in]'"
_WRONG = 1e-4  # relative difference from onnxruntime that no rounding explains
_SIDES = (64, 32, 224, 256, 28, 16, 48, 96, 128)  # that are tried where the file fixes none
_OTHER_WAY = "prune the PyTorch checkpoint that it was exported from: a state dict, with --arch package.module:factory"
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "PRelu", "InstanceNormalization")


def is_onnx(path: Path) -> bool:
    """Whether `path` is called .onnx, as every ONNX file is."""
    return path.suffix.lower() == ".onnx" and path.is_file()


def to_module(path: Path) -> nn.Module:
    """The network in an ONNX file as a module in eval mode, which computes what onnxruntime computes.

    Its layers are called after their weights (``body.0.weight`` makes ``body_0``), other operations after their nodes.

    Raises:
        InputError: the file is damaged, hostile (see `external_data.read`), or not a network of one image and one output.
        ArchitectureError: onnx2torch is not installed, does not know an operation, or the module computes something else.

    """
    data, external = external_data.read(path)
    runtime = open_onnx(path)
    converter = _converter(path)
    model = onnx.load_model(str(path)) if external else onnx.ModelProto.FromString(data)
    lowered = named(lowering.lowered(model, str(path)))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, about arrays that cannot be written to
            module: nn.Module = converter.convert(lowered).float().eval()
    except NotImplementedError as error:
        raise ArchitectureError(f"{path}: onnx2torch cannot convert it: {_operation(error)}", _OTHER_WAY) from error
    except Exception as error:  # a converter of foreign graphs fails with anything
        raise ArchitectureError(f"{path}: onnx2torch cannot convert it: {_told(error)}", _OTHER_WAY) from error
    _compare(path, runtime, module)
    return module


def _converter(path: Path) -> Any:
    try:
        return importlib.import_module("onnx2torch")
    except Exception as error:  # a torchvision that does not fit torch raises RuntimeError
        raise ArchitectureError(f"{path}: to prune an ONNX file takes onnx2torch: {_told(error)}", INSTALL) from error


def named(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model`, every node with weights called after them; dots, which onnx2torch turns into slashes, as underscores."""
    weights = {initializer.name for initializer in model.graph.initializer}
    taken: set[str] = set()
    for number, node in enumerate(model.graph.node):
        own = next((name for name in node.input[1:] if name in weights), None) if node.op_type in _WEIGHTED else None
        name = (own.rpartition(".")[0] or own) if own else (node.name or f"{node.op_type}_{number}")
        name = "".join(char if char.isalnum() or char == "_" else "_" for char in name)[:200] or node.op_type
        while name in taken:
            name = f"{name}_{number}"
        taken.add(name)
        node.name = name
    return model


def _compare(path: Path, runtime: Network, module: nn.Module) -> None:
    """Raise ArchitectureError where onnxruntime and the module differ, on one image and, if a batch is allowed, on two."""
    shape = runtime.input_shape
    if len(shape) != 4 or shape[1] is None:
        raise InputError(f"{path}: the input has the shape {shape}, expected (batch, channels, height, width)")
    for batch in (shape[0],) if shape[0] is not None else (1, 2):
        image, expected = _example(runtime, batch, shape[1])
        try:
            with torch.no_grad():
                output = module(torch.from_numpy(image))
        except Exception as error:  # foreign code
            raise ArchitectureError(f"{path}: the converted network fails: {_told(error)}", _OTHER_WAY) from error
        got = output.numpy() if isinstance(output, torch.Tensor) else np.empty(0)
        if got.shape != expected.shape:
            raise ArchitectureError(
                f"{path}: the converted network returns {got.shape}, onnxruntime {expected.shape}", _OTHER_WAY
            )
        error_size = float(np.abs(got - expected).max()) / max(float(np.abs(expected).max()), 1e-30)
        if not error_size <= _WRONG:
            message = f"{path}: the converted network differs from onnxruntime by {error_size:.1e} (relative)"
            raise ArchitectureError(f"{message}, expected at most {_WRONG:.0e}", _OTHER_WAY)


def _example(runtime: Network, batch: int, channels: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Images of a size that onnxruntime accepts, and what it returns."""
    for side in _SIDES:
        height, width = (fixed or side for fixed in runtime.input_shape[2:])
        image = seeds.stream(0, "import check").random((batch, channels, height, width), np.float32)
        try:
            return image, runtime(image)
        except InputError:
            if side == _SIDES[-1]:
                raise
    raise AssertionError("there are sides")


def _operation(error: Exception) -> str:
    """Which operation is not known, from onnx2torch's message."""
    text = str(error)
    name, version = (
        text.partition(f"{key}=")[2].strip("')").split(",")[0].split(")")[0] for key in ("operation_type", "version")
    )
    return f"the operation {name.strip(chr(39))} (version {version}) is not known" if name else first_line(error)


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {first_line(error)}"
