"""`qcompress formulate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qcompress.cli import options, render

__all__ = ["formulate"]


def formulate(
    checkpoint: options.Checkpoint,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The problem; what its variables are goes beside it, as .json.")
    ] = Path("problem.bqm"),
    sparsity: Annotated[float, typer.Option("--sparsity", "-s", help="Share of the budget to remove: 0 to below 1.")] = 0.5,
    budget: Annotated[options.Budget, typer.Option(help="What the share is taken of.")] = options.Budget.filters,
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
    settings = s.Settings(
        sparsity=sparsity,
        budget=budget.value,
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
