"""`qcompress prune`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qcompress.cli import config_file, options, render, target_options
from qcompress.cli.shared_options import takes

if TYPE_CHECKING:
    from qcompress.settings import Settings

__all__ = ["prune", "settings_of"]


def settings_of(
    context: typer.Context,
    config: config_file.Config = None,
    sparsity: target_options.Sparsity = None,
    budget: target_options.BudgetName = None,
    target_params: target_options.TargetParams = None,
    target_macs: target_options.TargetMacs = None,
    target_size: target_options.TargetSize = None,
    target_latency: target_options.TargetLatency = None,
    speedup: target_options.Speedup = None,
    smallest: target_options.Smallest = False,
    latency_table: target_options.LatencyTable = None,
    backend: options.Backend = "profile",
    align: options.Align = "auto",
    objective: options.ObjectiveName = "auto",
    relinearise: options.Relinearise = None,
    coefficient: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A coefficient of the objective (alpha, alpha_fisher, ...); repeatable."),
    ] = None,
    selection: Annotated[
        Path | None,
        typer.Option(help="A selection that `solve` found: its budget, sparsity and align hold, nothing is searched."),
    ] = None,
    backend_option: options.BackendOption = None,
    solver: options.SolverName = None,
    max_qpu_seconds: options.MaxQpuSeconds = None,
    data: options.Data = None,
    noise: options.Noise = None,
    max_images: options.MaxImages = None,
    mean: options.Mean = None,
    std: options.Std = None,
    metric: options.MetricName = "auto",
    refine_evals: Annotated[
        int | None,
        typer.Option(
            help="Evaluations of the true metric that the refinement may spend; 0: none (default: 200, or with "
            "--refine-minutes as many as they allow)."
        ),
    ] = None,
    refine_minutes: Annotated[float | None, typer.Option(help="Minutes that the refinement may take.")] = None,
    proposer: Annotated[
        str, typer.Option(help="What proposes the refinement's candidates: tensor-train, hill-climbing or protes.")
    ] = "tensor-train",
    recover: Annotated[
        options.Recover, typer.Option(help="Repair without training, or finetune: training after the best of the others.")
    ] = options.Recover.lstsq,
    minutes: options.Minutes = None,
    epochs: options.Epochs = None,
    finetune_steps: options.FinetuneSteps = None,
    train_data: options.TrainData = None,
    learning_rate: options.LearningRate = None,
    teaching: options.Teaching = None,
    optimizer: options.OptimizerOption = options.Optimizer.muon,
    steps: Annotated[
        int,
        typer.Option(min=1, help="Prune in so many steps: score, select, remove and recover a part at a time."),
    ] = 1,
    ignore: options.Ignore = None,
    floor: options.Floor = 1,
    keep: options.Keep = None,
    keep_at_most: options.KeepAtMost = None,
    multiple_of: options.MultipleOf = None,
    max_drop: options.MaxDrop = None,
    min_speedup: options.MinSpeedup = None,
    max_size: options.MaxSize = None,
    undecided: options.UndecidedOption = options.Undecided.report,
    opset: options.Opset = 18,
    dynamic: options.Dynamic = True,
    size: options.AutoSize = None,
    arch: options.Arch = None,
    arch_args: options.ArchArgs = None,
    trust_pickle: options.TrustPickle = False,
    seed: options.Seed = 0,
    device: options.Device = "cpu",
    plots: options.Plots = False,
    crops: options.Crops = True,
    cache: options.Cache = None,
    workers: options.Workers = None,
    ray: options.Ray = None,
) -> Settings:
    """What the options of a run say."""
    del config  # it has been read: see `config_file`
    from qcompress import settings as s
    from qcompress.qubo import objective as named_objective

    means, stds = options.parse_normalisation(mean, std)
    asked = target_options.parse_target(
        **target_options.of_the_line(
            config_file.given_here(context, *target_options.TARGETS),
            sparsity=sparsity,
            budget=budget,
            target_params=target_params,
            target_macs=target_macs,
            target_size=target_size,
            target_latency=target_latency,
            speedup=speedup,
            smallest=smallest,
        )
    )
    return s.Settings(
        sparsity=asked.sparsity,
        budget=asked.budget,
        target=asked.target,
        metric=metric,
        seed=seed,
        device=device,
        workers=workers,
        ray=ray,
        recover=recover.value,
        finetune=s.FinetuneOptions(
            minutes, finetune_steps, epochs, learning_rate, teaching=teaching, source=train_data, optimiser=optimizer.value
        ),
        steps=steps,
        checkpoint=s.CheckpointOptions(arch, options.parse_arch_args(arch_args), trust_pickle),
        data=s.DataOptions(data, noise, max_images, mean=means, std=stds),
        search=s.SearchOptions(
            named_objective(objective, **options.parse_coefficients(coefficient or ())),
            backend,
            options.parse_backend_options(backend_option, solver, max_qpu_seconds),
            align=options.parse_align(align),
            relinearise=relinearise,
            ignore=tuple(ignore or ()),
            floor=floor,
            selection=selection,
            latency_table=latency_table,
            keep=options.parse_shares("--keep", keep),
            keep_at_most=options.parse_shares("--keep-at-most", keep_at_most),
            multiple_of=options.parse_multiples("--multiple-of", multiple_of),
        ),
        refine=s.RefineOptions(refine_evals, proposer, refine_minutes),
        export=s.ExportOptions(opset, dynamic),
        verify=s.VerifyOptions(size=size),
        limits=options.limits(max_drop, min_speedup, max_size, undecided),
        plots=plots,
        crops=crops,
        cache=cache,
    )


@takes(settings_of, before="out")
def prune(
    context: typer.Context,
    checkpoint: options.Checkpoint,
    out: options.Out = None,
    resume: options.Resume = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    **given: Any,
) -> None:
    """Choose units of CHECKPOINT, remove them, repair, export to ONNX, verify on images no stage has seen.

    Writes model.onnx, model.safetensors, plan.json, report.json, report.md and report.html to the output folder.
    """
    from qcompress.pipeline import prune as run

    settings = config_file.placed(context, partial(settings_of, context), **given)
    result = run(checkpoint, settings, out=out, observer=render.observer(quiet=quiet), resume=resume)
    render.show_report(result, as_json=as_json)
    raise typer.Exit(result.exit_code)
