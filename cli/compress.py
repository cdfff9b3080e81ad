"""`qcompress compress`."""

from __future__ import annotations

from typing import Annotated

import typer

from qcompress.cli import options, render

__all__ = ["compress"]


def compress(
    checkpoint: options.Checkpoint,
    target_size: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="What the ONNX file may weigh: a share of the dense one, or bytes such as 900kB (default: 0.25, or with "
            "--sparsity none).",
        ),
    ] = None,
    sparsity: Annotated[
        float | None,
        typer.Option(
            "--sparsity", "-s", help="Share of the filters that goes, exactly (default: as many as serve the target size)."
        ),
    ] = None,
    bits: Annotated[
        str,
        typer.Option(
            help="Widths that layers may have: some of 32,16,8,4, or auto for all. 8 is computed in integers, 16 and 4 are how "
            "weights are stored."
        ),
    ] = "auto",
    objective: Annotated[
        str,
        typer.Option(help="joint: what units and widths are measured to cost; aqc: the formulation of Wang et al."),
    ] = "joint",
    coefficient: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A coefficient of the objective (aqc: beta, bits ...); repeatable."),
    ] = None,
    calibration: Annotated[
        str,
        typer.Option(help="Ranges of activations: minmax, percentile, entropy, or auto, the best on the selection images."),
    ] = "auto",
    backend: options.Backend = "profile",
    backend_option: options.BackendOption = None,
    solver: options.SolverName = None,
    max_qpu_seconds: options.MaxQpuSeconds = None,
    align: options.Align = "auto",
    data: options.Data = None,
    noise: options.Noise = None,
    max_images: options.MaxImages = None,
    mean: options.Mean = None,
    std: options.Std = None,
    metric: options.MetricName = "auto",
    recover: Annotated[
        options.Recover,
        typer.Option(
            help="Repair without training, or finetune: 10 minutes of training after it, before weights are narrowed."
        ),
    ] = options.Recover.lstsq,
    out: options.Out = None,
    ignore: options.Ignore = None,
    floor: options.Floor = 1,
    max_drop: options.MaxDrop = None,
    min_speedup: options.MinSpeedup = None,
    opset: options.Opset = 18,
    dynamic: options.Dynamic = True,
    crops: options.Crops = True,
    size: options.AutoSize = None,
    arch: options.Arch = None,
    arch_args: options.ArchArgs = None,
    trust_pickle: options.TrustPickle = False,
    seed: options.Seed = 0,
    device: options.Device = "cpu",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Choose units to remove and a width for every layer of CHECKPOINT together, so that the ONNX file weighs what you ask.

    Writes model.onnx, which onnxruntime runs in integers where layers have 8 bits, the float32 weights it was made from
    (model.safetensors), plan.json, report.json, report.md and report.html to the output folder.
    """
    from qcompress import settings as s
    from qcompress.compressing import compress as run
    from qcompress.quantities import parse_size
    from qcompress.widths import parse_bits

    means, stds = options.parse_normalisation(mean, std)
    asked = target_size or (None if sparsity is not None else "0.25")
    settings = s.Settings(
        metric=metric,
        seed=seed,
        device=device,
        recover=recover.value,
        checkpoint=s.CheckpointOptions(arch, options.parse_arch_args(arch_args), trust_pickle),
        data=s.DataOptions(data, noise, max_images, mean=means, std=stds),
        search=s.SearchOptions(
            backend=backend,
            backend_options=options.parse_backend_options(backend_option, solver, max_qpu_seconds),
            align=options.parse_align(align),
            ignore=tuple(ignore or ()),
            floor=floor,
        ),
        export=s.ExportOptions(opset, dynamic),
        verify=s.VerifyOptions(size=size),
        limits=options.limits(max_drop, min_speedup, None, options.Undecided.report),
        crops=crops,
        compress=s.CompressOptions(
            target_size=None if asked is None else parse_size(asked, "--target-size"),
            sparsity=sparsity,
            bits=parse_bits(bits),
            objective=objective,
            coefficients=options.parse_coefficients(coefficient or ()),
            calibration=calibration,
        ),
    )
    result = run(checkpoint, settings, out=out, observer=render.observer(quiet=quiet))
    render.show_report(result, as_json=as_json)
    raise typer.Exit(result.exit_code)
