"""A network as ONNX, for converters that read that; written once where several of them want the same."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from qcompress.exporters.base import Artifact, Weights
from qcompress.exporters.checked import trial_shapes
from qcompress.exporters.onnx import export_onnx
from qcompress.exporters.runtime import STRIDE_KEY, open_onnx

__all__ = ["OnnxSource", "as_onnx", "shared_onnx"]


@dataclass(frozen=True)
class OnnxSource:
    """A network as ONNX, which another converter reads: checked against PyTorch already."""

    artifact: Artifact
    input_shape: tuple[int | None, ...]
    stride: int

    def shapes(self, example: Tensor, *, batch: bool = True) -> tuple[tuple[int, ...], ...]:
        """As `trial_shapes`; without `batch`, of one image each."""
        free = (self.input_shape[0] if batch else 1, *self.input_shape[1:])
        return trial_shapes(tuple(example.shape), free, self.stride)


@dataclass(frozen=True)
class _Written:
    """What one block of `shared_onnx` has in its folder, by everything that it depends on; the network by its identity."""

    folder: Path
    sources: dict[tuple[Any, ...], OnnxSource] = field(default_factory=dict)


_written: ContextVar[_Written | None] = ContextVar("_written", default=None)


@contextmanager
def shared_onnx() -> Iterator[None]:
    """Within the block a network that `as_onnx` has written is not written again; it must not change meanwhile."""
    with tempfile.TemporaryDirectory() as folder:
        before = _written.set(_Written(Path(folder)))
        try:
            yield
        finally:
            _written.reset(before)


@contextmanager
def as_onnx(
    model: nn.Module,
    example: Tensor,
    *,
    opset: int,
    dynamic: bool,
    metadata: Mapping[str, str],
    weights: Weights = "float32",
) -> Iterator[OnnxSource]:
    """`model` as an ONNX file in a temporary folder, with fixed sizes where `dynamic` is not wanted or not to be had."""
    shared = _written.get()
    if shared is None:
        with shared_onnx(), as_onnx(model, example, opset=opset, dynamic=dynamic, metadata=metadata, weights=weights) as source:
            yield source
        return
    key = (id(model), tuple(example.shape), opset, dynamic, tuple(sorted(metadata.items())), weights)
    if key not in shared.sources:
        path = shared.folder / f"{len(shared.sources)}.onnx"
        artifact = export_onnx(model, example, path, opset=opset, dynamic=dynamic, metadata=metadata, weights=weights)
        network = open_onnx(path)
        shared.sources[key] = OnnxSource(artifact, network.input_shape, int(network.metadata.get(STRIDE_KEY, "1")))
    yield shared.sources[key]
