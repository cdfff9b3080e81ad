"""`qcompress profile`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qcompress.cli import options, render

__all__ = ["profile"]


def profile(
    checkpoint: options.Checkpoint,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The table to write (default: latency-table.json); not with --script.")
    ] = None,
    size: options.Size = 256,
    threads: Annotated[int, typer.Option(min=1, help="Threads of onnxruntime.")] = 1,
    block: Annotated[
        int | None,
        typer.Option(
            min=1, help="Channels that the runtime computes at a time: 16, 8 or 4 (default: those of this processor)."
        ),
    ] = None,
    script: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Measure nothing: write timing.py and jobs.json there, which make the table on a device (numpy, onnxruntime).",
        ),
    ] = None,
    ignore: options.Ignore = None,
    arch: options.Arch = None,
    arch_args: options.ArchArgs = None,
    trust_pickle: options.TrustPickle = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure what every layer of CHECKPOINT takes in ONNX Runtime at other widths: `prune --latency-table` takes the table."""
    from qcompress.errors import UsageError
    from qcompress.profiling import profile as run
    from qcompress.settings import CheckpointOptions

    if script is not None and out is not None:
        raise UsageError(
            "--script and --out are given, expected one of them",
            f"the table is made on the device: python timing.py jobs.json -o {out}",
        )
    path = out or Path("latency-table.json")
    table = run(
        checkpoint,
        CheckpointOptions(arch, options.parse_arch_args(arch_args), trust_pickle),
        size=size,
        threads=threads,
        block=block,
        ignore=tuple(ignore or ()),
        out=None if script else path,
        script=script,
        observer=render.observer(quiet=quiet),
    )
    files = [str(path)] if script is None else [str(script / "timing.py"), str(script / "jobs.json")]
    if as_json:
        render.print_json({"files": files, "device": None if table is None else table.device.model_dump()})
    elif table is None:
        render.print_line(f"written to {script}: timing.py, jobs.json; on the device: python timing.py jobs.json -o edge.json")
    else:
        render.print_line(f"{len(table.times_ns)} models timed on {table.device.processor}, {table.threads} thread(s)")
        render.print_line(f"written to {path}; next: qcompress prune CHECKPOINT --target-latency 8ms --latency-table {path}")
