"""Core ML: an .mlpackage folder (an ML program), by coremltools. It runs, and is verified, on Apple's systems alone."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qcompress.errors import InputError
from qcompress.exporters.base import Array, Artifact, Opened, Prepared, Weights, first_line, load_package
from qcompress.exporters.checked import Draft, on_cpu, publish, trial_shapes
from qcompress.exporters.dims import Axes, first_that_works, sizes_note, stride_of
from qcompress.exporters.quiet import silent

__all__ = ["export_coreml", "open_coreml"]

_LARGEST = 4096  # pixels a side, where sizes may vary
_LOGGERS = ("coremltools", "")


def export_coreml(
    model: nn.Module,
    example: Tensor,
    path: Path,
    *,
    opset: int = 18,
    dynamic: bool = True,
    metadata: Mapping[str, str],
    weights: Weights = "float32",
) -> Artifact:
    """As `Exporter`; `opset` means nothing here. With float16 weights Core ML computes in float16, too.

    On other systems than macOS nothing runs the file: the artifact is unverified.
    """
    del opset
    tools = _import_tools()
    network, example = on_cpu(model), example.detach().cpu().float()
    stride = stride_of(network, example) if dynamic else None

    def tries() -> Iterator[Axes]:
        if stride is not None:
            yield (2, 3)
        yield ()

    def convert(axes: Axes) -> Any:
        sides = [
            tools.RangeDim(stride or 1, _LARGEST, size) if axis in axes else size for axis, size in enumerate(example.shape)
        ]
        with torch.inference_mode():
            traced = torch.jit.trace(network, example.clone(), check_trace=False)  # type: ignore[no-untyped-call]
        return tools.convert(
            traced,
            inputs=[tools.TensorType(name="input", shape=tools.Shape(sides) if axes else tuple(sides))],
            outputs=[tools.TensorType(name="output")],
            convert_to="mlprogram",
            compute_precision=tools.precision.FLOAT16 if weights == "float16" else tools.precision.FLOAT32,
            minimum_deployment_target=tools.target.iOS15,
        )

    axes, written, reason = first_that_works(tries(), convert, "coremltools", _LOGGERS)
    for key, value in metadata.items():
        written.user_defined_metadata[f"qcompress.{key}"] = value
    shape = tuple(example.shape)
    notes = sizes_note(axes, stride, example, dynamic, reason)
    here = platform.system() == "Darwin"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.mlpackage"
        with silent(_LOGGERS):
            written.save(str(file))
        free = tuple(None if axis in axes else size for axis, size in enumerate(shape))
        draft = Draft((file,), trial_shapes(shape, free, stride or 1), False, notes if here else (*notes, "runs on macOS only"))
        return publish(draft, network, path, format="coreml", open=open_coreml if here else None, weights=weights)


def open_coreml(path: Path, threads: int = 1, *, exact: bool = False) -> Opened:
    """Opens an .mlpackage on macOS, on the CPU. Core ML chooses the number of threads itself."""
    del threads, exact
    tools = _import_tools()
    try:
        model = tools.models.MLModel(str(path), compute_units=tools.ComputeUnit.CPU_ONLY)
        described = model.get_spec().description
        (given,), (result,) = described.input, described.output
    except Exception as error:  # coremltools raises whatever it meets
        raise InputError(f"{path.name}: Core ML cannot open it: {first_line(error)}", "is the folder complete?") from error
    shape = tuple(given.type.multiArrayType.shape)
    ranges = given.type.multiArrayType.shapeRange.sizeRanges
    free = tuple(None if index < len(ranges) and ranges[index].upperBound != size else size for index, size in enumerate(shape))
    known = {key.removeprefix("qcompress."): value for key, value in model.user_defined_metadata.items()}

    def prepare(images: Array) -> Prepared:
        last: list[Array] = []

        def run() -> None:
            last[:] = [model.predict({given.name: images})[result.name]]

        return Prepared(run, lambda: np.array(last[0], np.float32))

    return Opened(path.name, free, known, prepare)


def _import_tools() -> Any:
    with silent(_LOGGERS):
        return load_package("coremltools", "coreml")
