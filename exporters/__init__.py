"""Exporters: one file per format, and the tables of formats and of the runtimes that open them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from qcompress.exporters.base import Artifact, Exporter, Format, Runner, Runtime
from qcompress.exporters.coreml import export_coreml, open_coreml
from qcompress.exporters.executorch import export_executorch, open_executorch
from qcompress.exporters.litert import export_litert, open_litert
from qcompress.exporters.mnn import export_mnn, open_mnn
from qcompress.exporters.ncnn import export_ncnn, open_ncnn
from qcompress.exporters.onnx import export_onnx
from qcompress.exporters.openvino import export_openvino, open_openvino
from qcompress.exporters.ort import export_ort, open_either
from qcompress.exporters.program import export_program, open_program
from qcompress.exporters.tensors import export_tensors

__all__ = [
    "EXPORTERS",
    "RUNTIMES",
    "Artifact",
    "Exporter",
    "Format",
    "Runner",
    "Runtime",
    "export_onnx",
    "files_of",
    "format_of",
    "runtime_of",
]

EXPORTERS: Mapping[str, Format] = {
    "onnx": Format(export_onnx, ".onnx", "onnxruntime"),
    "ort": Format(export_ort, ".ort", "onnxruntime", beside=(".required_operators.config",)),
    "openvino": Format(export_openvino, ".xml", "openvino", "openvino", beside=(".bin",)),
    "ncnn": Format(export_ncnn, ".ncnn.param", "ncnn", "ncnn", beside=(".ncnn.bin",)),
    "mnn": Format(export_mnn, ".mnn", "mnn", "mnn"),
    "litert": Format(export_litert, ".tflite", "litert", "litert"),
    "executorch": Format(export_executorch, ".pte", "executorch", "executorch"),
    "coreml": Format(export_coreml, ".mlpackage", "coreml", "coreml"),
    "pt2": Format(export_program, ".pt2", "torch"),
    "safetensors": Format(export_tensors, ".safetensors", None),
}

RUNTIMES: Mapping[str, Runtime] = {
    "onnxruntime": Runtime(open_either, (".onnx", ".ort")),
    "openvino": Runtime(open_openvino, (".xml", ".onnx"), "openvino"),
    "ncnn": Runtime(open_ncnn, (".param",), "ncnn"),
    "mnn": Runtime(open_mnn, (".mnn",), "mnn"),
    "litert": Runtime(open_litert, (".tflite",), "litert"),
    "executorch": Runtime(open_executorch, (".pte",), "executorch"),
    "coreml": Runtime(open_coreml, (".mlpackage",), "coreml"),
    "torch": Runtime(open_program, (".pt2",), runs_code=True),
}


def format_of(path: Path) -> str | None:
    """The format whose files end as `path` does."""
    return next((name for name, row in EXPORTERS.items() if path.name.lower().endswith(row.suffix)), None)


def files_of(path: Path) -> tuple[Path, ...]:
    """The file at `path`, and those beside it that belong to it and are there."""
    name = format_of(path)
    if name is None:
        return (path,)
    stem = path.name[: -len(EXPORTERS[name].suffix)]
    beside = (path.with_name(stem + ending) for ending in EXPORTERS[name].beside)
    return (path, *(file for file in beside if file.is_file()))


def runtime_of(path: Path) -> str | None:
    """The first runtime that opens files that end as `path` does."""
    return next((name for name, row in RUNTIMES.items() if path.name.lower().endswith(row.suffixes)), None)
