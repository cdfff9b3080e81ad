"""MNN: one .mnn file, converted from ONNX by MNN's own converter, run by its CPU backend."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from qcompress.errors import ExportError, InputError
from qcompress.exporters.base import Array, Artifact, Opened, Prepared, Weights, first_line, load_package
from qcompress.exporters.checked import Draft, on_cpu, publish
from qcompress.exporters.quiet import silent
from qcompress.exporters.runtime import open_onnx
from qcompress.exporters.through_onnx import as_onnx

__all__ = ["convert_onnx", "export_mnn", "open_mnn"]

_OURS = "qcompress:"  # begins the text in the file that holds our metadata
_WINOGRAD, _SMALL_TILES = 3, 0  # MNN's hint WINOGRAD_MEMORY_LEVEL, and the value that rounds least
_SECONDS = 600  # that a conversion may take
# MNN.tools.mnnconvert does the same and more: it installs a package by pip and reports what was converted.
_CONVERT = "import sys, _tools; _tools.mnnconvert(['mnnconvert', *sys.argv[1:]])"


def export_mnn(
    model: nn.Module,
    example: Tensor,
    path: Path,
    *,
    opset: int = 18,
    dynamic: bool = True,
    metadata: Mapping[str, str],
    weights: Weights = "float32",
) -> Artifact:
    """As `Exporter`; batch, height and width stay dynamic where they are so in ONNX."""
    _import_mnn()
    with (
        tempfile.TemporaryDirectory() as folder,
        as_onnx(  # float16 rounded there, for MNN cuts the last bits off
            model, example, opset=opset, dynamic=dynamic, metadata=metadata, weights=weights
        ) as source,
    ):
        file = Path(folder) / "model.mnn"
        convert_onnx(source.artifact.path, file, weights)
        draft = Draft((file,), source.shapes(example), source.artifact.dynamic, source.artifact.notes, opset)
        return publish(draft, on_cpu(model), path, format="mnn", open=open_mnn, weights=weights)


def convert_onnx(source: Path, target: Path, weights: Weights = "float32") -> None:
    """Have MNN convert an ONNX file, in a process of its own: its converter ends the process where it fails."""
    network = open_onnx(source)
    ours = _OURS + json.dumps({**network.metadata, "input": network.input_shape})
    options = ["-f", "ONNX", "--modelFile", str(source), "--MNNModel", str(target), "--bizCode", ours]
    options += ["--fp16"] if weights == "float16" else []
    command = [sys.executable, "-c", _CONVERT, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    if done.returncode or not target.is_file():
        said = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise ExportError(f"MNN cannot convert this network: {said[-1][:200] if said else f'exit code {done.returncode}'}")


def open_mnn(path: Path, threads: int = 1, *, exact: bool = False) -> Opened:
    """Opens an .mnn file on the CPU.

    Left alone MNN computes 3x3 convolutions by Winograd's algorithm with large tiles, which rounds at about 1e-4 of the largest
    output; `exact` asks for small ones.
    """
    mnn = _import_mnn()
    if not path.is_file():
        raise InputError(f"{path}: no such file", "name an .mnn file")
    try:
        with silent():
            interpreter = mnn.Interpreter(str(path))
            if exact:
                interpreter.setSessionHint(_WINOGRAD, _SMALL_TILES)
            session = interpreter.createSession({"numThread": threads, "backend": "CPU", "precision": "high"})
            (given,) = interpreter.getSessionInputAll(session).values()
            (result,) = interpreter.getSessionOutputAll(session).values()
    except Exception as error:  # MNN raises whatever it meets
        raise InputError(f"{path.name}: MNN cannot open it: {first_line(error)}", "is the file complete?") from error
    known = _metadata(path.read_bytes())
    kind = mnn.Tensor_DimensionType_Caffe  # (N, C, H, W)

    def prepare(images: Array) -> Prepared:
        with silent():
            interpreter.resizeTensor(given, images.shape)
            interpreter.resizeSession(session)
        given.copyFrom(mnn.Tensor(images.shape, mnn.Halide_Type_Float, images, kind))

        def run() -> None:
            code = interpreter.runSession(session)
            if code:
                raise RuntimeError(f"MNN's error code {code}")

        def output() -> Array:
            shape = result.getShape()
            place = np.zeros(shape, np.float32)
            copied = mnn.Tensor(shape, mnn.Halide_Type_Float, place, kind)
            result.copyToHostTensor(copied)
            return np.array(copied.getNumpyData(), np.float32).reshape(shape)

        return Prepared(run, output)

    shape = known.pop("input", None) or [size if size > 0 else None for size in given.getShape()]
    return Opened(path.name, tuple(shape), {key: str(value) for key, value in known.items()}, prepare)


def _metadata(data: bytes) -> dict[str, Any]:
    """What `convert_onnx` put into the file: the first field of its root table (MNN's schema, Net.bizCode)."""
    encode, table_of = importlib.import_module("flatbuffers.encode"), importlib.import_module("flatbuffers.table").Table
    offset = importlib.import_module("flatbuffers.packer").uoffset
    try:
        table = table_of(data, encode.Get(offset, data, 0))
        place = table.Offset(4)
        text = table.String(place + table.Pos).decode() if place else ""
        found = json.loads(text.removeprefix(_OURS)) if text.startswith(_OURS) else {}
    except Exception:  # what is no such table, by another MNN or damaged: MNN itself has the last word on the file
        return {}
    return found if isinstance(found, dict) else {}


def _import_mnn() -> Any:
    """The package, which prints the processor's features when it is imported."""
    with silent():
        return load_package("MNN", "mnn")
