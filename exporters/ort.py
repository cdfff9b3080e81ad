"""onnxruntime's own format, for its minimal builds, with the list of operators that such a build has to contain.

It is no smaller than ONNX and no faster: the point is a small runtime (onnxruntime's `build.sh --minimal_build
--include_ops_by_config FILE`). Graph optimisations are done beforehand, those that fit any processor.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from qcompress.errors import ExportError, InputError
from qcompress.exporters.base import Artifact, Weights, first_line
from qcompress.exporters.checked import Draft, on_cpu, only_float32, publish
from qcompress.exporters.quiet import silent
from qcompress.exporters.runtime import Network, import_onnxruntime, open_onnx, open_ort
from qcompress.exporters.through_onnx import as_onnx

__all__ = ["export_ort", "open_either"]

_SUFFIX, _CONFIG = ".ort", ".required_operators.config"


def export_ort(
    model: nn.Module,
    example: Tensor,
    path: Path,
    *,
    opset: int = 18,
    dynamic: bool = True,
    metadata: Mapping[str, str],
    weights: Weights = "float32",
) -> Artifact:
    """As `Exporter`: NAME.ort, and NAME.required_operators.config beside it."""
    only_float32(weights, "ort")  # the cast behind each weight would be carried out before the file is written
    with (
        tempfile.TemporaryDirectory() as folder,
        as_onnx(model, example, opset=opset, dynamic=dynamic, metadata=metadata) as source,
    ):
        file = Path(folder) / f"model{_SUFFIX}"
        _convert(source.artifact.path, file)
        config = _required_operators(file, path.name)
        draft = Draft((file, config), source.shapes(example), source.artifact.dynamic, source.artifact.notes, opset)
        return publish(draft, on_cpu(model), path, format="ort", open=open_ort, rename=lambda to: (to, _config_of(to)))


def open_either(path: Path, threads: int = 1, *, exact: bool = False) -> Network:
    """Opens an ONNX file or one in onnxruntime's own format, by its ending."""
    return (open_ort if path.suffix.lower() == _SUFFIX else open_onnx)(path, threads, exact=exact)


def _config_of(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(_SUFFIX) + _CONFIG)


def _convert(source: Path, target: Path) -> None:
    """Opening an ONNX file with these options writes it in the other format."""
    runtime = import_onnxruntime()
    options = runtime.SessionOptions()
    options.optimized_model_filepath = str(target)
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.add_session_config_entry("session.save_model_format", "ORT")
    try:
        with silent():
            runtime.InferenceSession(source.read_bytes(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base but this one
        raise ExportError(f"onnxruntime cannot write its own format: {first_line(error)}") from error


def _required_operators(file: Path, name: str) -> Path:
    """The configuration of a minimal build, written next to `file`."""
    import_onnxruntime()
    tools = importlib.import_module("onnxruntime.tools.ort_format_model")
    config = file.with_suffix(_CONFIG)
    try:
        with silent(("onnxruntime", "")):
            tools.create_config_from_models([file], config, True)
    except Exception as error:
        raise ExportError(f"onnxruntime cannot list the operators that it needs: {first_line(error)}") from error
    lines = [line for line in config.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    if not lines:
        raise InputError(f"{name}: onnxruntime lists no operators for it")
    config.write_text("\n".join((f"# operators and types that {name} needs", *lines)) + "\n", encoding="utf-8")
    return config
