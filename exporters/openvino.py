"""OpenVINO's IR, NAME.xml with its weights in NAME.bin: read from ONNX by OpenVINO itself, run on its CPU plugin."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from qcompress.errors import ExportError, InputError
from qcompress.exporters import external_data
from qcompress.exporters.base import Array, Artifact, Opened, Prepared, Weights, first_line, load_package
from qcompress.exporters.checked import Draft, on_cpu, publish
from qcompress.exporters.runtime import open_onnx
from qcompress.exporters.through_onnx import as_onnx

__all__ = ["export_openvino", "open_openvino"]

_OURS = "qcompress"  # key of our metadata in the model's runtime information
_TELEMETRY = "openvino_telemetry"


def export_openvino(
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
    openvino = _import_openvino()
    with (
        tempfile.TemporaryDirectory() as folder,
        as_onnx(model, example, opset=opset, dynamic=dynamic, metadata=metadata) as source,
    ):
        file = Path(folder) / "model.xml"
        try:
            read = openvino.Core().read_model(source.artifact.path)
            for key, value in open_onnx(source.artifact.path).metadata.items():
                read.set_rt_info(value, [_OURS, key])
            openvino.save_model(read, file, compress_to_fp16=weights == "float16")
        except Exception as error:  # OpenVINO raises RuntimeError
            raise ExportError(f"OpenVINO cannot convert this network: {first_line(error)}") from error
        draft = Draft(
            (file, file.with_suffix(".bin")), source.shapes(example), source.artifact.dynamic, source.artifact.notes, opset
        )
        return publish(
            draft,
            on_cpu(model),
            path,
            format="openvino",
            open=open_openvino,
            rename=lambda to: (to, to.with_suffix(".bin")),
            weights=weights,
        )


def open_openvino(path: Path, threads: int = 1, *, exact: bool = False) -> Opened:
    """Opens an IR or, checked as everywhere, an ONNX file on the CPU.

    OpenVINO computes in bfloat16 by itself where the processor has it; `exact` asks for float32.
    """
    openvino = _import_openvino()
    _check_file(path)
    options: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    if exact:
        options["INFERENCE_PRECISION_HINT"] = "f32"
    try:
        model = openvino.Core().read_model(path)
        compiled = openvino.Core().compile_model(model, "CPU", options)
        (given,), (_result,) = compiled.inputs, compiled.outputs
    except Exception as error:  # OpenVINO raises RuntimeError, and ValueError for another number of inputs or outputs
        raise InputError(f"{path.name}: OpenVINO cannot open it: {first_line(error)}", "is the file complete?") from error
    if given.get_element_type().get_type_name() != "f32":
        raise InputError(f"{path.name}: the input is {given.get_element_type().get_type_name()}, expected f32")

    def prepare(images: Array) -> Prepared:
        request = compiled.create_infer_request()
        tensor = openvino.Tensor(images, shared_memory=True)
        request.set_input_tensor(tensor)

        def run() -> None:
            assert tensor is not None  # which OpenVINO does not keep alive
            request.infer()

        return Prepared(run, lambda: np.array(request.get_output_tensor(0).data, np.float32))

    shape = tuple(size.get_length() if size.is_static else None for size in given.get_partial_shape())
    return Opened(path.name, shape, _metadata(model), prepare)


def _check_file(path: Path) -> None:
    if path.suffix.lower() == ".onnx":
        external_data.check(path)
    elif not (path.is_file() and path.with_suffix(".bin").is_file()):
        raise InputError(f"{path}: no such file, or no {path.with_suffix('.bin').name} beside it", "name an .xml file")


def _metadata(model: Any) -> dict[str, str]:
    if not model.has_rt_info([_OURS]):
        return {}
    return {str(key): str(value.value) for key, value in model.get_rt_info([_OURS]).astype(dict).items()}


def _import_openvino() -> Any:
    """The package, with its telemetry off: `import openvino` reports itself otherwise, and leaves files in ~/intel."""
    if "openvino" in sys.modules or _TELEMETRY in sys.modules:
        return load_package("openvino", "openvino")
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # which makes its import fail, and OpenVINO do without
    try:
        return load_package("openvino", "openvino")
    finally:
        del sys.modules[_TELEMETRY]
