"""Exporters: one file per format, and the tables of formats and of the runtimes that open them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from qcompress.exporters.base import Artifact, Exporter, Format, Runner, Runtime
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
    "format_of",
    "runtime_of",
]

EXPORTERS: Mapping[str, Format] = {
    "onnx": Format(export_onnx, ".onnx", "onnxruntime"),
    "ort": Format(export_ort, ".ort", "onnxruntime"),
    "openvino": Format(export_openvino, ".xml", "openvino", "openvino"),
    "ncnn": Format(export_ncnn, ".ncnn.param", "ncnn", "ncnn"),
    "mnn": Format(export_mnn, ".mnn", "mnn", "mnn"),
    "pt2": Format(export_program, ".pt2", "torch"),
    "safetensors": Format(export_tensors, ".safetensors", None),
}

RUNTIMES: Mapping[str, Runtime] = {
    "onnxruntime": Runtime(open_either, (".onnx", ".ort")),
    "openvino": Runtime(open_openvino, (".xml", ".onnx"), "openvino"),
    "ncnn": Runtime(open_ncnn, (".param",), "ncnn"),
    "mnn": Runtime(open_mnn, (".mnn",), "mnn"),
    "torch": Runtime(open_program, (".pt2",), runs_code=True),
}


def format_of(path: Path) -> str | None:
    """The format whose files end as `path` does."""
    return next((name for name, row in EXPORTERS.items() if path.name.lower().endswith(row.suffix)), None)


def runtime_of(path: Path) -> str | None:
    """The first runtime that opens files that end as `path` does."""
    return next((name for name, row in RUNTIMES.items() if path.name.lower().endswith(row.suffixes)), None)
