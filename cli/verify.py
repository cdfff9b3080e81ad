"""`qcompress verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qcompress.cli import options, render

__all__ = ["verify"]

_SAID = {"failed": "missed", "undecided": "undecided"}


def verify(
    artifact: Annotated[Path, typer.Argument(help="The file to verify, as `export` writes them.", show_default=False)],
    reference: Annotated[
        Path | None,
        typer.Option(help="What to compare with: a checkpoint, a slim folder, an ONNX file or another of its kind."),
    ] = None,
    runtime: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What runs the file: onnxruntime, openvino, ncnn, mnn, litert, executorch, torch (default: by its ending).",
        ),
    ] = None,
    data: options.Data = None,
    noise: options.Noise = None,
    max_images: options.MaxImages = None,
    mean: options.Mean = None,
    std: options.Std = None,
    metric: options.MetricName = "auto",
    max_drop: options.MaxDrop = None,
    min_speedup: options.MinSpeedup = None,
    max_size: options.MaxSize = None,
    undecided: options.UndecidedOption = options.Undecided.report,
    size: options.AutoSize = None,
    arch: options.Arch = None,
    arch_args: options.ArchArgs = None,
    trust_pickle: options.TrustPickle = False,
    seed: options.Seed = 0,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure ARTIFACT in its runtime on the report images: its metric and, against a reference, the drop and the speedup."""
    from qcompress import settings as s
    from qcompress.checking import verify as run

    means, stds = options.parse_normalisation(mean, std)
    settings = s.Settings(
        metric=metric,
        seed=seed,
        checkpoint=s.CheckpointOptions(arch, options.parse_arch_args(arch_args), trust_pickle),
        data=s.DataOptions(data, noise, max_images, mean=means, std=stds),
        verify=s.VerifyOptions(size=size, runtime=runtime),
        limits=options.limits(max_drop, min_speedup, max_size, undecided),
    )
    check = run(artifact, reference, settings, observer=render.observer(quiet=quiet))
    if as_json:
        render.print_json(check.as_dict())
    else:
        render.print_table(str(artifact), ("quantity", "reference", "artifact", "change"), check.rows())
        for note in (*check.found.notes, *check.race.notes):
            render.print_line(f"note: {note}")
        for reason in check.gate.reasons:
            render.print_line(f"{_SAID[check.gate.outcome]}: {reason}")
    raise typer.Exit(check.exit_code)
