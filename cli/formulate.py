"""`qcompress formulate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qcompress.cli import options, render, target_options

__all__ = ["formulate"]


def formulate(
    checkpoint: options.Checkpoint,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The problem; what its variables are goes beside it, as .json.")
    ] = Path("problem.bqm"),
    sparsity: target_options.Sparsity = None,
    budget: target_options.BudgetName = None,
    target_params: target_options.TargetParams = None,
    target_macs: target_options.TargetMacs = None,
    align: options.Align = "auto",
    objective: options.ObjectiveName = "auto",
    relinearise: options.Relinearise = None,
    coefficient: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A coefficient of the objective (alpha, alpha_fisher, ...); repeatable."),
    ] = None,
    data: options.Data = None,
    noise: options.Noise = None,
    max_images: options.MaxImages = None,
    mean: options.Mean = None,
    std: options.Std = None,
    metric: options.MetricName = "auto",
    ignore: options.Ignore = None,
    floor: options.Floor = 1,
    keep: options.Keep = None,
    keep_at_most: options.KeepAtMost = None,
    multiple_of: options.MultipleOf = None,
    size: options.AutoSize = None,
    arch: options.Arch = None,
    arch_args: options.ArchArgs = None,
    trust_pickle: options.TrustPickle = False,
    seed: options.Seed = 0,
    device: options.Device = "cpu",
    workers: options.Workers = None,
    ray: options.Ray = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Score the units of CHECKPOINT and write the problem: `solve` it elsewhere, then `prune --selection` here."""
    from qcompress import settings as s
    from qcompress.formulation import formulate as run
    from qcompress.qubo import objective as named_objective

    means, stds = options.parse_normalisation(mean, std)
    asked = target_options.parse_target(sparsity, budget, target_params=target_params, target_macs=target_macs)
    settings = s.Settings(
        sparsity=asked.sparsity,
        budget=asked.budget,
        target=asked.target,
        metric=metric,
        seed=seed,
        device=device,
        workers=workers,
        ray=ray,
        checkpoint=s.CheckpointOptions(arch, options.parse_arch_args(arch_args), trust_pickle),
        data=s.DataOptions(data, noise, max_images, mean=means, std=stds),
        search=s.SearchOptions(
            named_objective(objective, **options.parse_coefficients(coefficient or ())),
            relinearise=relinearise,
            align=options.parse_align(align),
            ignore=tuple(ignore or ()),
            floor=floor,
            keep=options.parse_shares("--keep", keep),
            keep_at_most=options.parse_shares("--keep-at-most", keep_at_most),
            multiple_of=options.parse_multiples("--multiple-of", multiple_of),
        ),
        verify=s.VerifyOptions(size=size),
    )
    found = run(checkpoint, settings, out=out, observer=render.observer(quiet=quiet))
    units = len(found.record.space)
    if as_json:
        files = [str(found.path), str(found.path.with_suffix(".json"))]
        render.print_json({"files": files, "units": units, "interactions": found.interactions})
        return
    render.print_line(f"{units} units in {len(found.record.groups)} groups, {found.interactions:,} couplings")
    render.print_line(f"written to {found.path} and {found.path.with_suffix('.json')}; next: qcompress solve {found.path}")
