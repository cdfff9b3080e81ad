"""`qcompress apply`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qcompress.cli import options, render

__all__ = ["apply"]


def apply(
    plan: Annotated[Path, typer.Argument(help="A plan.json, or the slim folder that holds it.", show_default=False)],
    checkpoint: options.Checkpoint,
    out: options.Out = None,
    recover: options.Recover = options.Recover.lstsq,
    minutes: options.Minutes = None,
    epochs: options.Epochs = None,
    finetune_steps: options.FinetuneSteps = None,
    train_data: options.TrainData = None,
    learning_rate: options.LearningRate = None,
    teaching: options.Teaching = None,
    optimizer: options.OptimizerOption = options.Optimizer.muon,
    data: options.Data = None,
    noise: options.Noise = None,
    max_images: options.MaxImages = None,
    mean: options.Mean = None,
    std: options.Std = None,
    metric: options.MetricName = "auto",
    ignore: options.Ignore = None,
    floor: options.Floor = 1,
    opset: options.Opset = 18,
    dynamic: options.Dynamic = True,
    max_drop: options.MaxDrop = None,
    min_speedup: options.MinSpeedup = None,
    max_size: options.MaxSize = None,
    undecided: options.UndecidedOption = options.Undecided.report,
    arch: options.Arch = None,
    arch_args: options.ArchArgs = None,
    trust_pickle: options.TrustPickle = False,
    seed: options.Seed = 0,
    device: options.Device = "cpu",
    plots: options.Plots = False,
    crops: options.Crops = True,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the fine-tuning that Ctrl-C or a crash ended in the output folder.")
    ] = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Apply PLAN to the CHECKPOINT it was made for, again: surgery, repair, export and verification, without the search.

    With the data, noise, seed, --ignore and --floor of the run that made the plan this gives the same network.
    """
    from qcompress import settings as s
    from qcompress.pipeline import apply as run

    means, stds = options.parse_normalisation(mean, std)
    settings = s.Settings(
        metric=metric,
        seed=seed,
        device=device,
        recover=recover.value,
        finetune=s.FinetuneOptions(
            minutes, finetune_steps, epochs, learning_rate, teaching=teaching, source=train_data, optimiser=optimizer.value
        ),
        checkpoint=s.CheckpointOptions(arch, options.parse_arch_args(arch_args), trust_pickle),
        data=s.DataOptions(data, noise, max_images, mean=means, std=stds),
        search=s.SearchOptions(ignore=tuple(ignore or ()), floor=floor),
        export=s.ExportOptions(opset, dynamic),
        limits=options.limits(max_drop, min_speedup, max_size, undecided),
        plots=plots,
        crops=crops,
    )
    result = run(plan, checkpoint, settings, out=out, observer=render.observer(quiet=quiet), resume=resume)
    render.show_report(result, as_json=as_json)
    raise typer.Exit(result.exit_code)
