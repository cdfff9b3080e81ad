"""`qcompress export`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qcompress.cli import options, render

if TYPE_CHECKING:
    from qcompress.conversion import Outcome

__all__ = ["export"]


class Weights(StrEnum):
    """What weights are stored as."""

    float32 = "float32"
    float16 = "float16"


class Pad(StrEnum):
    """Where an image of an odd size is padded to a multiple of the network's stride."""

    outside = "outside"
    inside = "inside"


def export(
    source: Annotated[Path, typer.Argument(help="A checkpoint, or a slim folder that `prune` wrote.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="The file to write, or for several formats the folder (default: next to the source, NAME.onnx)."
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="FORMAT,...",
            help="Formats to write: onnx, ort, openvino, ncnn, mnn, litert, executorch, coreml, pt2, safetensors; several with "
            "commas between (default: that of the file's ending, or onnx).",
        ),
    ] = None,
    opset: options.Opset = 18,
    dynamic: options.Dynamic = True,
    weights: Annotated[
        Weights, typer.Option(help="What weights are stored as; the network computes in float32.")
    ] = Weights.float32,
    pad: Annotated[
        Pad, typer.Option(help="inside: the file takes images of any size, padded in the graph to a multiple of the stride.")
    ] = Pad.outside,
    size: options.Size = 256,
    arch: options.Arch = None,
    arch_args: options.ArchArgs = None,
    trust_pickle: options.TrustPickle = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a checkpoint or a slim folder in one format or several, each checked in its own runtime."""
    from qcompress.conversion import export_all
    from qcompress.exporters import format_of
    from qcompress.settings import CheckpointOptions, ExportOptions

    wanted = (format_of(out) if out else None) or "onnx" if to is None else to
    formats = tuple(dict.fromkeys(name.strip() for name in wanted.split(",")))
    outcomes = export_all(
        source,
        out,
        to=formats,
        options=CheckpointOptions(arch, options.parse_arch_args(arch_args), trust_pickle),
        export=ExportOptions(opset, dynamic, weights.value, pad is Pad.inside),
        size=size,
        observer=render.observer(quiet=quiet or len(formats) == 1),
    )
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    if len(outcomes) == 1 and failed and failed[0].error is not None:
        raise failed[0].error
    if as_json:
        found = [outcome.as_dict() for outcome in outcomes]
        status = {"status": "failed" if failed else "ok"}
        render.print_json(status | (found[0] if len(found) == 1 else {"formats": found}))
    else:
        for outcome in outcomes:
            _show(outcome)
    raise typer.Exit(failed[0].error.exit_code if failed and failed[0].error else 0)


def _show(outcome: Outcome) -> None:
    """A line on what was written and how it was checked, or why it was not, and the notes."""
    artifact, error = outcome.artifact, outcome.error
    if artifact is None:
        assert error is not None
        render.print_line(f"{outcome.format}: failed: {error.message}" + (f" ({error.hint})" if error.hint else ""))
        return
    checked = f"verified, {artifact.parity}" if outcome.state == "verified" else "exported but unverified"
    opset = f", opset {artifact.opset}" if artifact.opset else ""
    render.print_line(f"{artifact.path}: {artifact.size_bytes:,} bytes{opset}; {checked}")
    for note in artifact.notes:
        render.print_line(f"note: {note}")
