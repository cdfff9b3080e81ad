"""torch.export: the network as a graph of ATen operations in one .pt2 file, which PyTorch runs without the network's code."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from qcompress.errors import InputError
from qcompress.exporters.base import Array, Artifact, Opened, Prepared, Weights, first_line
from qcompress.exporters.checked import Draft, on_cpu, only_float32, publish, trial_shapes
from qcompress.exporters.dims import Axes, captured, first_that_works, sizes_note, stride_of
from qcompress.exporters.quiet import silent
from qcompress.exporters.runtime import STRIDE_KEY

__all__ = ["export_program", "open_program"]

_METADATA = "qcompress.json"  # among the archive's extra files
_LOGGERS = ("torch.export", "torch._export")


def export_program(
    model: nn.Module,
    example: Tensor,
    path: Path,
    *,
    opset: int = 18,
    dynamic: bool = True,
    metadata: Mapping[str, str],
    weights: Weights = "float32",
) -> Artifact:
    """As `Exporter`; `opset` means nothing here. Source lines and local paths, which torch puts into the file, are left out."""
    del opset
    only_float32(weights, "pt2")
    network, example = on_cpu(model), example.detach().cpu().float()
    stride = stride_of(network, example) if dynamic else None
    every = (0, 2, 3)

    def tries() -> Iterator[Axes]:
        if stride is not None:
            yield every
        if dynamic:
            yield (0,)
        yield ()

    axes, program, reason = first_that_works(
        tries(), lambda axes: captured(network, example, axes, stride or 1), "torch.export", _LOGGERS
    )
    _strip(program)
    kept = {**metadata, STRIDE_KEY: str(stride)} if 2 in axes else dict(metadata)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.pt2"
        with silent(_LOGGERS):
            torch.export.save(program, file, extra_files={_METADATA: json.dumps(kept)})
        free = tuple(None if axis in axes else size for axis, size in enumerate(example.shape))
        shapes = trial_shapes(tuple(example.shape), free, stride or 1)
        draft = Draft((file,), shapes, axes == every, sizes_note(axes, stride, example, dynamic, reason))
        return publish(draft, network, path, format="pt2", open=open_program)


def open_program(path: Path, threads: int = 1, *, exact: bool = False) -> Opened:
    """Opens a .pt2 file that torch.export wrote.

    Reading its graph can run code (torch evaluates expressions and unpickles objects in it): only for files that one trusts.
    """
    del exact
    if not path.is_file():
        raise InputError(f"{path}: no such file", "name a .pt2 file")
    extra = {_METADATA: ""}
    try:
        with silent(_LOGGERS):
            program = torch.export.load(path, extra_files=extra)
            network = program.module()
    except Exception as error:  # what torch raises over a damaged archive is open-ended
        raise InputError(f"{path}: not a readable exported program: {first_line(error)}", "is the file complete?") from error
    names = program.graph_signature.user_inputs
    (shape,) = [node.meta["val"].shape for node in program.graph.nodes if node.name in names]
    known = json.loads(extra[_METADATA] or "{}")

    def prepare(images: Array) -> Prepared:
        given, last = torch.from_numpy(images), [torch.empty(0)]

        def run() -> None:
            with torch.inference_mode(), _threads(threads):
                last[0] = network(given)

        return Prepared(run, lambda: last[0].numpy().copy())

    free = tuple(size if isinstance(size, int) else None for size in shape)
    return Opened(path.name, free, {str(key): str(value) for key, value in known.items()}, prepare)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Torch computes in `count` threads: a setting of the whole process, put back afterwards."""
    before = torch.get_num_threads()
    if before != count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if before != count:
            torch.set_num_threads(before)


def _strip(program: torch.export.ExportedProgram) -> None:
    """Takes out what names the machine and the source it was made with, and the example, which torch would pickle."""
    for graph in program.graph_module.modules():
        if isinstance(graph, torch.fx.GraphModule):
            for node in graph.graph.nodes:
                node.meta = {key: value for key, value in node.meta.items() if key == "val"}
    program._example_inputs = None
