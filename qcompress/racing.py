"""A file against its dense network: in the same runtime, which shows what pruning gained, and against ONNX in onnxruntime."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from qcompress import latency, seeds
from qcompress.conversion import Network
from qcompress.errors import QCompressError
from qcompress.exporters import EXPORTERS, RUNTIMES, Runner, format_of
from qcompress.latency import Latency
from qcompress.settings import Settings

__all__ = ["DenseFile", "Race", "run_race"]

_ONNX = "onnxruntime"


@dataclass(frozen=True)
class DenseFile:
    """A reference that is a file already, and the runtime that its ending names."""

    path: Path
    runtime: str

    def open(self, threads: int) -> Runner:
        """In its runtime."""
        return RUNTIMES[self.runtime](self.path, threads)


@dataclass(frozen=True)
class Race:
    """What was measured: `same`, both in one runtime; `onnx`, the dense ONNX file in onnxruntime and the file in its own.

    `onnx` is None where that is the same comparison; `notes` say why one is missing.
    """

    same: Latency | None = None
    onnx: Latency | None = None
    notes: tuple[str, ...] = ()


def run_race(artifact: Path, runtime: str, dense: Network | DenseFile, shape: tuple[int, ...], settings: Settings) -> Race:
    """Both comparisons, as far as `dense` can be had in the runtimes, on one input of `shape`.

    Raises InputError where a file cannot be run on it.
    """
    image = seeds.stream(settings.seed, "latency input").random(shape, dtype="float32")
    same, onnx, notes = None, None, []
    wanted = format_of(artifact) or "onnx"
    with tempfile.TemporaryDirectory() as folder:

        def timed(format: str, dense_runtime: str) -> Latency | None:
            try:
                path = _dense_file(dense, format, dense_runtime, shape, Path(folder))
            except QCompressError as error:
                notes.append(f"the dense network as {format}: {error.message}")
                return None
            if path is None:
                notes.append(f"{dense_runtime} does not open the reference: give a checkpoint")
                return None
            options = settings.verify
            return latency.compare(
                path,
                artifact,
                image,
                seed=settings.seed,
                threads=options.threads,
                max_seconds=options.max_seconds,
                dense_runtime=dense_runtime,
                slim_runtime=runtime,
            )

        same = timed(wanted, runtime)
        if runtime != _ONNX:
            onnx = timed("onnx", _ONNX)
    return Race(same, onnx, tuple(notes))


def _dense_file(dense: Network | DenseFile, format: str, runtime: str, shape: tuple[int, ...], folder: Path) -> Path | None:
    """The dense network for `runtime`; None where the reference is a file that it does not open."""
    if isinstance(dense, DenseFile):
        return dense.path if dense.path.name.lower().endswith(RUNTIMES[runtime].suffixes) else None
    path = folder / f"dense{EXPORTERS[format].suffix}"
    example = torch.zeros(shape)
    return EXPORTERS[format](dense.model, example, path, opset=18, dynamic=True, metadata={}).path
