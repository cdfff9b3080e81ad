"""Exporters: one file per format, and the table of them."""

from __future__ import annotations

from collections.abc import Mapping

from qcompress.exporters.base import Artifact, Exporter
from qcompress.exporters.onnx import export_onnx

__all__ = ["EXPORTERS", "Artifact", "Exporter", "export_onnx"]

EXPORTERS: Mapping[str, Exporter] = {"onnx": export_onnx}
