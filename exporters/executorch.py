"""ExecuTorch: one .pte program, lowered to XNNPACK, run by ExecuTorch's own runtime.

Memory is planned when the file is written: a dynamic height and width go up to those of the example.
"""

from __future__ import annotations

import importlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qcompress.errors import InputError, UsageError
from qcompress.exporters.base import Array, Artifact, Opened, Prepared, Weights, first_line, load_package
from qcompress.exporters.checked import Draft, on_cpu, only_float32, publish
from qcompress.exporters.dims import Axes, captured, first_that_works, sizes_note, stride_of
from qcompress.exporters.quiet import silent
from qcompress.exporters.runtime import STRIDE_KEY

__all__ = ["export_executorch", "open_executorch"]

_EXTRA = "executorch"
_pool: list[int] = []  # threads of ExecuTorch's pool, once it was set
_OURS = "qcompress"  # a method of the program that returns our metadata, as the codes of JSON's characters


def export_executorch(
    model: nn.Module,
    example: Tensor,
    path: Path,
    *,
    opset: int = 18,
    dynamic: bool = True,
    metadata: Mapping[str, str],
    weights: Weights = "float32",
) -> Artifact:
    """As `Exporter`; `opset` means nothing here."""
    del opset
    _package("executorch.exir")
    only_float32(weights, "executorch")
    network, example = on_cpu(model), example.detach().cpu().float()
    stride = stride_of(network, example) if dynamic else None
    largest = max(example.shape[2:]) if example.ndim == 4 else None

    def tries() -> Iterator[Axes]:
        if stride is not None:
            yield (2, 3)
        yield ()

    def convert(axes: Axes) -> bytes:
        free = [None if axis in axes else size for axis, size in enumerate(example.shape)]
        kept = {**metadata, **({STRIDE_KEY: str(stride)} if axes else {}), "input": free}
        program = captured(network, example, axes, stride or 1, largest=largest)
        return _lowered(program, {_OURS: torch.tensor(list(json.dumps(kept).encode()), dtype=torch.uint8)})

    axes, data, reason = first_that_works(tries(), convert, "ExecuTorch", ("executorch", ""))
    smaller = tuple(size - (stride or 1) if axis in axes else size for axis, size in enumerate(example.shape))
    shapes = tuple(dict.fromkeys((tuple(example.shape), smaller)))
    notes = sizes_note(axes, stride, example, dynamic, reason)
    upper = (f"height and width up to {largest}, for which memory is planned",) if axes else ()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.pte"
        file.write_bytes(data)
        draft = Draft((file,), shapes, False, (*upper, *notes))
        return publish(draft, network, path, format="executorch", open=open_executorch)


def open_executorch(path: Path, threads: int = 1, *, exact: bool = False) -> Opened:
    """Opens a .pte file. The number of threads is that of the process: another one is refused later."""
    del exact
    with silent(("executorch", "")):
        runtime = _package("executorch.runtime").Runtime.get()
    if not path.is_file():
        raise InputError(f"{path}: no such file", "name a .pte file")
    _set_threads(threads)
    try:
        with silent():
            program = runtime.load_program(path)
            method = program.load_method("forward")
            shape: list[int | None] = list(method.metadata.input_tensor_meta(0).sizes())
            known = _metadata(program)
    except Exception as error:  # ExecuTorch raises RuntimeError, and more for what is no program
        raise InputError(f"{path.name}: ExecuTorch cannot open it: {first_line(error)}", "is the file complete?") from error

    def prepare(images: Array) -> Prepared:
        given, last = torch.from_numpy(images), [torch.empty(0)]

        def run() -> None:
            (last[0],) = method.execute([given])

        return Prepared(run, lambda: last[0].numpy().copy())

    shape = known.pop("input", None) or shape
    return Opened(path.name, tuple(shape), {key: str(value) for key, value in known.items()}, prepare)


def _lowered(program: torch.export.ExportedProgram, constants: Mapping[str, Tensor]) -> bytes:
    """The program with everything that XNNPACK knows handed to it."""
    exir = _package("executorch.exir")
    xnnpack = _package("executorch.backends.xnnpack.partition.xnnpack_partitioner")
    lowered = exir.to_edge_transform_and_lower(
        program, partitioner=[xnnpack.XnnpackPartitioner()], constant_methods=dict(constants)
    )
    return bytes(lowered.to_executorch().buffer)


def _metadata(program: Any) -> dict[str, Any]:
    """What `export_executorch` put into the file."""
    if _OURS not in program.method_names:
        return {}
    (codes,) = program.load_method(_OURS).execute([])
    try:
        found = json.loads(bytes(codes.tolist()).decode())
    except (ValueError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _set_threads(count: int) -> None:
    """ExecuTorch has one pool of threads for the process, and what is open holds on to it: so it is set once, before anything.

    Raises UsageError where it was set to another number.
    """
    library = _package("executorch.extension.pybindings.portable_lib")
    if _pool and _pool[0] != count:
        raise UsageError(f"ExecuTorch computes in {_pool[0]} threads in this process already, asked for {count}")
    with silent():  # it tells of the processor
        if library._threadpool_get_thread_count() != count:
            library._unsafe_reset_threadpool(count)
    _pool[:] = [count]


def _package(name: str) -> Any:
    load_package("executorch", _EXTRA)
    with silent(("executorch", "")):
        return importlib.import_module(name)
