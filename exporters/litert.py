"""LiteRT (TensorFlow Lite): one .tflite file, by litert-torch, run by ai-edge-litert.

The file keeps the layout (N, C, H, W) of the network, and has one size: with symbolic ones litert-torch 0.10 fails at the first
addition of two branches ("add got incompatible shapes for broadcasting").
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from qcompress.errors import ExportError, InputError
from qcompress.exporters.base import Array, Artifact, Opened, Prepared, Weights, first_line, load_package
from qcompress.exporters.checked import Draft, on_cpu, only_float32, publish
from qcompress.exporters.quiet import silent

__all__ = ["export_litert", "open_litert"]

_LOGGERS = ("litert_torch", "jax", "absl", "torch.export", "")


def export_litert(
    model: nn.Module,
    example: Tensor,
    path: Path,
    *,
    opset: int = 18,
    dynamic: bool = True,
    metadata: Mapping[str, str],
    weights: Weights = "float32",
) -> Artifact:
    """As `Exporter`; `opset` means nothing here, and the format has no place for `metadata`."""
    del opset, metadata
    only_float32(weights, "litert")
    with silent(_LOGGERS):
        litert = load_package("litert_torch", "litert")
    network, example = on_cpu(model), example.detach().cpu().float()

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.tflite"
        try:
            with silent(_LOGGERS):
                litert.convert(network, (example,)).export(str(file))
        except Exception as error:  # the converter raises whatever went wrong inside
            raise ExportError(f"litert-torch cannot convert this network: {first_line(error)}") from error
        size = "x".join(map(str, example.shape[2:]))
        notes = (f"the input is {size}, batch {len(example)} only: litert-torch fixes sizes",) if dynamic else ()
        draft = Draft((file,), (tuple(example.shape),), False, notes)
        return publish(draft, network, path, format="litert", open=open_litert)


def open_litert(path: Path, threads: int = 1, *, exact: bool = False) -> Opened:
    """Opens a .tflite file on the CPU, with XNNPACK as LiteRT itself chooses."""
    del exact
    with silent():
        litert = load_package("ai_edge_litert.interpreter", "litert")
    if not path.is_file():
        raise InputError(f"{path}: no such file", "name a .tflite file")
    try:
        with silent():
            interpreter = litert.Interpreter(str(path), num_threads=threads)
            (given,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    except Exception as error:  # LiteRT raises ValueError and RuntimeError
        raise InputError(f"{path.name}: LiteRT cannot open it: {first_line(error)}", "is the file complete?") from error
    if given["dtype"] is not np.float32:
        raise InputError(f"{path.name}: the input is {np.dtype(given['dtype'])}, expected float32")

    def prepare(images: Array) -> Prepared:
        with silent():
            interpreter.resize_tensor_input(given["index"], images.shape)
            interpreter.allocate_tensors()
        interpreter.set_tensor(given["index"], images)
        return Prepared(interpreter.invoke, lambda: np.array(interpreter.get_tensor(result["index"]), np.float32))

    shape = tuple(int(size) if size > 0 else None for size in given["shape_signature"])
    return Opened(path.name, shape, {}, prepare)
