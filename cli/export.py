"""`qcompress export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qcompress.cli import options, render

__all__ = ["export"]


def export(
    source: Annotated[Path, typer.Argument(help="A checkpoint, or a slim folder that `prune` wrote.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The file to write (default: NAME.onnx next to the source).")
    ] = None,
    to: Annotated[str, typer.Option(help="Format to write.")] = "onnx",
    opset: options.Opset = 18,
    dynamic: options.Dynamic = True,
    size: options.Size = 256,
    arch: options.Arch = None,
    arch_args: options.ArchArgs = None,
    trust_pickle: options.TrustPickle = False,
    as_json: options.Json = False,
) -> None:
    """Write a checkpoint or a slim folder as ONNX: one file, BatchNorm folded, checked and reloaded."""
    from qcompress.conversion import export as run
    from qcompress.settings import CheckpointOptions, ExportOptions

    artifact = run(
        source,
        out,
        to=to,
        options=CheckpointOptions(arch, options.parse_arch_args(arch_args), trust_pickle),
        export=ExportOptions(opset, dynamic),
        size=size,
    )
    if as_json:
        render.print_json(
            {
                "status": "ok",
                "path": str(artifact.path),
                "format": artifact.format,
                "bytes": artifact.size_bytes,
                "sha256": artifact.sha256,
                "opset": artifact.opset,
                "dynamic": artifact.dynamic,
                "notes": list(artifact.notes),
            }
        )
        return
    render.print_line(f"{artifact.path}: {artifact.size_bytes:,} bytes, opset {artifact.opset}")
    for note in artifact.notes:
        render.print_line(f"note: {note}")
