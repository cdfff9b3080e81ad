"""ONNX, by torch's exporters: one file, checked and run before anyone sees it."""

from __future__ import annotations

import copy
import hashlib
import logging
import re
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from qcompress import seeds
from qcompress.errors import ExportError, InputError
from qcompress.exporters.base import Artifact, Weights, first_line, shape_text
from qcompress.exporters.float16 import store_float16
from qcompress.exporters.parity import LEAST_DB, PARITY_GATE, Difference, Parity
from qcompress.exporters.runtime import STRIDE_KEY, find_stride, open_bytes
from qcompress.files import write_bytes

__all__ = ["export_onnx"]

_AXES = {0: "batch", 2: "height", 3: "width"}
_LARGEST = 2**31 - 2**20  # bytes a protobuf can hold, less room for the graph
_WRONG = 1e-4  # relative difference from torch that no rounding explains; verify has the tighter gate
_NOISY_LOGGERS = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")
_LEAKS = ("doc_string", "metadata_props")  # torch puts source lines and local paths there


def export_onnx(
    model: nn.Module,
    example: Tensor,
    path: Path,
    *,
    opset: int = 18,
    dynamic: bool = True,
    metadata: Mapping[str, str],
    weights: Weights = "float32",
) -> Artifact:
    """Writes `model` as an ONNX file with the input "input" and the output "output".

    With `dynamic`, batch, height and width may vary; where the network or torch's exporter does not allow it, fewer may, and a
    note says why. A BatchNorm is folded into the convolution before it. With float16 `weights` the file is about half as large;
    it computes in float32 all the same. Raises ExportError (torch's exporter refuses the network, writes another opset than
    asked, or writes a network that computes something else) and OutputError.
    """
    network = copy.deepcopy(model).cpu().eval()
    example = example.detach().cpu().float()
    size = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    if size > _LARGEST:
        raise ExportError(f"{size} bytes of weights do not fit into one ONNX file, which holds at most {_LARGEST}")
    stride = _torch_stride(network, example) if dynamic and example.ndim == 4 else None
    failed: list[str] = []
    for write in (_by_export, _by_script):
        reasons: list[str] = []
        for axes in _rungs(dynamic, stride, example):
            try:
                data = _convert(write, network, example, axes, opset, _all_metadata(metadata, axes, stride), weights)
                parity = _compare(network, data, _shapes(example, axes, stride), weights)
            except (_RungError, InputError) as error:
                reasons.append(f"{_named(axes)}: {error}")
                continue
            older = [f"written by torch's older exporter, for its newer one fails: {failed[0]}"] if failed else []
            notes = (*older, *_size_notes(dynamic, axes, stride, example, reasons), *_fold_notes(data))
            return _write(path, data, opset, tuple(axes) == tuple(_AXES), notes, parity)
        failed.append(reasons[-1])
        if _reads_values(network, example):
            break  # a trace would keep the one branch that the example takes
    second = f"; its older one: {failed[1]}" if len(failed) > 1 else ""
    raise ExportError(f"torch's exporter cannot write this network: {failed[0]}{second}")


class _RungError(Exception):
    """Exporting with these axes dynamic did not work; with fewer it may."""


def _rungs(dynamic: bool, stride: int | None, example: Tensor) -> Iterator[tuple[int, ...]]:
    """Sets of dynamic axes to try, the best first."""
    if dynamic and stride is not None:
        yield tuple(_AXES)
    if dynamic and example.ndim > 1:
        yield (0,)
    yield ()


def _torch_stride(network: nn.Module, example: Tensor) -> int | None:
    """What height and width must be multiples of for torch to run the network; None where no other size runs."""

    def accepts(height: int, width: int) -> bool:
        try:
            with torch.inference_mode():
                network(_content((1, example.shape[1], height, width)))
        except Exception:  # a network may refuse a size with any exception
            return False
        return True

    return find_stride(accepts, example.shape[2], example.shape[3])


def _content(shape: tuple[int, ...]) -> Tensor:
    """An input of `shape` in 0..1 to compare on, always the same; an example's own may be all zeros, which shows little."""
    return torch.from_numpy(seeds.stream(0, "export check").random(shape, np.float32))


def _shapes(example: Tensor, axes: tuple[int, ...], stride: int | None) -> Iterator[tuple[int, ...]]:
    """The shape of `example`, and one that differs from it along every dynamic axis."""
    shape = tuple(example.shape)
    yield shape
    if 2 in axes and stride is not None:
        yield (shape[0] + 1, shape[1], shape[2] + stride, shape[3] + 2 * stride)
    elif 0 in axes:
        yield (shape[0] + 1, *shape[1:])


def _convert(
    write: Callable[[nn.Module, Tensor, tuple[int, ...], int], onnx.ModelProto],
    network: nn.Module,
    example: Tensor,
    axes: tuple[int, ...],
    opset: int,
    metadata: Mapping[str, str],
    weights: Weights,
) -> bytes:
    """The bytes of the ONNX model, checked against what was asked."""
    batch = torch.cat([example, example]) if axes and len(example) == 1 else example  # torch.export takes 1 for a constant
    with _quiet():
        try:
            proto = write(network, batch, axes, opset)
        except Exception as error:  # the exporters raise whatever went wrong inside
            raise _RungError(f"torch's exporter fails: {_root_cause(error)}") from error
    _check_opset(proto, opset)
    _check_axes(proto, axes)
    _strip(proto)
    _name_transposed(proto, network)
    if weights == "float16":
        store_float16(proto)
    onnx.helper.set_model_props(proto, dict(metadata))
    try:
        onnx.checker.check_model(proto, full_check=True)
    except Exception as error:  # checker and shape inference raise their own kinds
        raise _RungError(f"wrote an invalid ONNX model: {_root_cause(error)}") from error
    return bytes(proto.SerializeToString())


class _Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notices operations that hand numbers out of tensors to Python code."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run `func` and take note."""
        self.seen |= func._overloadpacket.__name__ in ("_local_scalar_dense", "masked_select", "nonzero", "_unique2")
        return func(*args, **(kwargs or {}))


def _reads_values(network: nn.Module, example: Tensor) -> bool:
    """Whether what the network does may depend on the values in its input."""
    with torch.no_grad(), _Reads() as reads:
        network(_content(tuple(example.shape)))
    return bool(reads.seen)


def _by_export(network: nn.Module, batch: Tensor, axes: tuple[int, ...], opset: int) -> onnx.ModelProto:
    """By torch.export, which knows the graph with its symbolic sizes."""
    program = torch.onnx.export(
        network,
        (batch,),
        dynamo=True,
        input_names=["input"],
        output_names=["output"],
        dynamic_shapes=({axis: _AXES[axis] for axis in axes},) if axes else None,
        opset_version=opset,
        verbose=False,
    )
    assert program is not None
    return program.model_proto


def _by_script(network: nn.Module, batch: Tensor, axes: tuple[int, ...], opset: int) -> onnx.ModelProto:
    """By a trace with TorchScript, torch's way of before: code that torch.export refuses often goes through."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            network,
            (batch.clone(),),
            path,
            dynamo=False,
            input_names=["input"],
            output_names=["output"],
            dynamic_axes={"input": {axis: _AXES[axis] for axis in axes}, "output": {axis: _AXES[axis] for axis in axes}},
            opset_version=opset,
        )
        return onnx.load(path)


def _check_opset(proto: onnx.ModelProto, opset: int) -> None:
    """Torch writes opset 18 where it cannot write what was asked, and says so in a log line only."""
    written = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), None)
    if written != opset:
        raise ExportError(f"torch's exporter cannot write opset {opset}: it wrote {written}", f"use opset {written}")


def _check_axes(proto: onnx.ModelProto, axes: tuple[int, ...]) -> None:
    """Torch fixes a size without an exception where the network's Python code depends on it."""
    sizes = proto.graph.input[0].type.tensor_type.shape.dim
    fixed = [_AXES[axis] for axis in axes if sizes[axis].HasField("dim_value")]
    if fixed:
        raise _RungError(f"the network's code fixes {', '.join(fixed)}")


def _strip(message: Any) -> None:
    """Removes documentation and metadata from a protobuf message and everything in it."""
    for field, value in message.ListFields():
        if field.name in _LEAKS:
            message.ClearField(field.name)
        elif field.message_type is not None:
            for item in [value] if hasattr(value, "ListFields") else value:
                _strip(item)


def _name_transposed(proto: onnx.ModelProto, network: nn.Module) -> None:
    """Call the weight of a linear layer that was written transposed after its layer, as all others are."""
    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    products = [node for node in proto.graph.node if node.op_type == "MatMul" and node.input[1] in weights]
    unnamed = {node.input[1]: numpy_helper.to_array(weights[node.input[1]]) for node in products}
    for name, module in network.named_modules():
        if not isinstance(module, nn.Linear) or f"{name}.weight" in weights:
            continue
        transposed = module.weight.detach().numpy().T
        found = [old for old, value in unnamed.items() if np.array_equal(value, transposed)]
        if len(found) == 1:
            weights[found[0]].name = f"{name}.weight"
            del unnamed[found[0]]
            for node in products:
                node.input[1] = f"{name}.weight" if node.input[1] == found[0] else node.input[1]


def _compare(network: nn.Module, data: bytes, shapes: Iterable[tuple[int, ...]], weights: Weights) -> Parity:
    """Raises where onnxruntime and torch disagree: wrong exports are a known kind of failure."""
    written, all_of_them = open_bytes(data, "the exported network"), Difference()
    for given in map(_content, shapes):
        try:
            with torch.inference_mode():
                output = network(given.clone())  # some networks begin with an operation in place
        except Exception as error:  # a size that pooling rounds down to one it takes: the next size shows it
            raise _RungError(f"the network does not run on {shape_text(tuple(given.shape))}: {_root_cause(error)}") from error
        if not isinstance(output, Tensor):
            raise ExportError(f"the network returns a {type(output).__name__}, expected one tensor")
        expected, got = output.numpy(), written(given.numpy())
        if got.shape != expected.shape:
            raise _RungError(f"the written network returns {got.shape} where torch returns {expected.shape}")
        all_of_them.add(got, expected)
    wrong = all_of_them.parity(gate=_WRONG, least_db=LEAST_DB.get(weights))
    if not wrong.passed:
        raise _RungError(f"the written network differs from torch's by {wrong.max_abs_diff:.2g}: {wrong}")
    return replace(wrong, gate=PARITY_GATE)


def _all_metadata(metadata: Mapping[str, str], axes: tuple[int, ...], stride: int | None) -> dict[str, str]:
    return {**metadata, STRIDE_KEY: str(stride)} if 2 in axes and stride is not None else dict(metadata)


def _size_notes(dynamic: bool, axes: tuple[int, ...], stride: int | None, example: Tensor, reasons: list[str]) -> Iterator[str]:
    """Which sizes the file accepts, where that is less than any, and why."""
    if 2 in axes and stride is not None and stride > 1:
        yield f"height and width must be multiples of {stride}"
    elif dynamic and 2 not in axes:
        why = "; ".join(reasons) or "the network runs on no other size"
        yield f"the input is {'x'.join(map(str, example.shape[2:]))}{'' if axes else f', batch {len(example)}'} only: {why}"


def _fold_notes(data: bytes) -> Iterator[str]:
    left = sum(node.op_type == "BatchNormalization" for node in onnx.load_from_string(data).graph.node)
    if left:
        yield f"{left} BatchNormalization nodes stand where no convolution before them can take them in"


def _root_cause(error: BaseException) -> str:
    """What went wrong first, without the exporter's advice to its developers and its colours."""
    while error.__cause__ is not None:
        error = error.__cause__
    return re.sub(r"\x1b\[[0-9;]*m", "", first_line(error))


def _named(axes: tuple[int, ...]) -> str:
    return f"with dynamic {', '.join(_AXES[axis] for axis in axes)}" if axes else "with fixed sizes"


def _write(path: Path, data: bytes, opset: int, dynamic: bool, notes: tuple[str, ...], parity: Parity) -> Artifact:
    """Puts the checked bytes in their place in one step."""
    write_bytes(path, data)
    digest = hashlib.sha256(data).hexdigest()
    return Artifact(path, "onnx", len(data), digest, opset, dynamic, notes, parity=parity)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter's warnings and log lines, which are for its developers, from the user."""
    loggers = [logging.getLogger(name) for name in _NOISY_LOGGERS]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
