"""onnxruntime's own static quantisation of a whole network: what ours is measured against."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from qcompress.errors import ExportError
from qcompress.exporters import external_data
from qcompress.exporters.base import Artifact
from qcompress.exporters.runtime import first_line, open_onnx
from qcompress.files import write_aside

__all__ = ["quantise_whole"]

_WARNING, _FATAL = 2, 4  # of onnxruntime's log levels: its default, and what is as good as silent


def quantise_whole(float_path: Path, path: Path, crops: NDArray[np.float32]) -> Artifact:
    """Writes the float32 network in `float_path` to `path` as `onnxruntime.quantization.quantize_static` makes it.

    U8S8, weights by channel, every operation that it knows, ranges by least and largest value on `crops` (N, C, H, W). Raises
    InputError for a file that cannot be read, ExportError where onnxruntime fails, OutputError where `path` cannot be written.
    """
    entry = open_onnx(float_path)  # which also switches telemetry off, before the import below
    from onnxruntime import quantization

    external_data.check(float_path)
    batches = (np.repeat(crop[None], entry.input_shape[0] or 1, axis=0) for crop in crops)
    with write_aside(path) as aside, _quiet():
        try:
            quantization.quantize_static(
                str(float_path),
                str(aside),
                _Reader(entry.input_name, batches),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )
        except Exception as error:  # whatever goes wrong inside
            raise ExportError(f"onnxruntime cannot quantise {float_path}: {first_line(error)}") from error
    data = path.read_bytes()
    model = onnx.load_from_string(data)
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    dynamic = all(size.HasField("dim_param") for size in list(model.graph.input[0].type.tensor_type.shape.dim)[::2])
    return Artifact(path, "onnx", len(data), hashlib.sha256(data).hexdigest(), opset, dynamic)


class _Reader:
    """Batches as onnxruntime's calibration asks for them."""

    def __init__(self, name: str, batches: Iterator[NDArray[np.float32]]) -> None:
        self._name, self._batches = name, batches

    def get_next(self) -> dict[str, Any] | None:
        """The next batch, None behind the last."""
        batch = next(self._batches, None)
        return None if batch is None else {self._name: batch}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps advice to those who develop quantised networks from the user: the root logger's, and onnxruntime's own."""
    import onnxruntime

    root, silent = logging.getLogger(), logging.NullHandler()  # with no handler there, logging would install one for good
    level = root.level
    root.addHandler(silent)
    root.setLevel(logging.CRITICAL + 1)
    onnxruntime.set_default_logger_severity(_FATAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        onnxruntime.set_default_logger_severity(_WARNING)
        root.setLevel(level)
        root.removeHandler(silent)
