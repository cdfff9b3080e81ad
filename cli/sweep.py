"""`qcompress sweep`."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from qcompress.cli import config_file, options, render
from qcompress.cli.prune import settings_of
from qcompress.cli.shared_options import takes

__all__ = ["INSTEAD", "sweep"]

INSTEAD = {
    "--max-drop": "--pick drop:0.1 picks the cheapest point within a drop",
    "--min-speedup": "--pick speedup:2 picks the best point that is so fast",
    "--max-size": "--pick size:300kB picks the best point that is so small",
    "--sparsity": "--at 0.2,0.35,0.5 lists the shares",
    "-s": "--at 0.2,0.35,0.5 lists the shares",
}
"""What serves in place of options that `prune` has and a sweep has not."""

_SHARE_ONLY = (
    *("sparsity", "target_params", "target_macs", "target_size", "target_latency", "speedup", "smallest"),
    *("selection", "max_drop", "min_speedup", "max_size", "undecided"),
)


class Against(StrEnum):
    """What quality is set against."""

    macs = "macs"
    params = "params"
    size = "size"
    latency = "latency"


@takes(settings_of, before="refine_evals", but=_SHARE_ONLY)
def sweep(
    context: typer.Context,
    checkpoint: options.Checkpoint,
    at: Annotated[
        str | None,
        typer.Option(
            metavar="SHARES",
            help="Shares of the budget to remove, 0.2,0.35,0.5, or a range that --points is spread over, 0.2:0.6 (default: "
            "0.2:0.8).",
        ),
    ] = None,
    points: Annotated[int | None, typer.Option(metavar="N", help="Number of points in the range (default: 5).")] = None,
    pick: Annotated[
        str | None,
        typer.Option(
            metavar="RULE",
            help="Copy one point to picked.slim: knee (of the front), drop:0.1 (the cheapest within that drop), speedup:2 or "
            "size:300kB (the best that meets it). Drops are those on selection images, never on the report images.",
        ),
    ] = None,
    against: Annotated[
        Against | None,
        typer.Option(help="The cost that the front is of (default: that of the budget; for filters macs)."),
    ] = None,
    refine_evals: Annotated[
        int | None,
        typer.Option(
            help="Evaluations of the true metric that the refinement of each point may spend (default: 0, or with "
            "--refine-minutes as many as they allow)."
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Make the points in N processes of one torch thread each, and time them alone afterwards; the result is the "
            "same for every N from 1. With --ray: N actors share scoring and refinement, point by point.",
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            "--cache",
            metavar="DIR",
            help="Keep the choice, weights, files and quality of every point in DIR; a point with unchanged inputs and options "
            "takes them from there and is only timed.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Output folder (default: NAME.sweep next to the checkpoint).")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the refinement or fine-tuning of a point that was interrupted; finished ones are kept anyway.",
        ),
    ] = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    **given: Any,
) -> None:
    """Prune CHECKPOINT to several shares of a budget: the Pareto front of quality against cost.

    Writes a slim folder for every point, as prune does, and sweep.json and sweep.md; with --plots the front as sweep.svg.
    Points that are finished are not computed again by the same command.
    """
    from qcompress.sweeping import table
    from qcompress.sweeping.facts import to_json
    from qcompress.sweeping.rules import parse_rule
    from qcompress.sweeping.run import sweep as run
    from qcompress.sweeping.shares import parse_shares

    shares = config_file.placed(context, parse_shares, at=at, points=points)
    rule = config_file.placed(context, lambda pick: None if pick is None else parse_rule(pick), pick=pick)
    if refine_evals is None and given["refine_minutes"] is None:
        refine_evals = 0
    given |= {"refine_evals": refine_evals, "workers": workers, "cache": cache}
    settings = config_file.placed(context, partial(settings_of, context), **given)
    found = run(
        checkpoint,
        shares,
        settings,
        against=None if against is None else against.value,
        rule=rule,
        out=out,
        observer=render.observer(quiet=quiet),
        resume=resume,
    )
    if as_json:
        render.print_text(to_json(found.facts))
        raise typer.Exit(found.exit_code)
    render.print_table(table.title(found.facts), table.columns(found.facts), table.rows(found.facts))
    for line in table.said(found.facts):
        render.print_line(line)
    render.print_line(f"written to {found.folder}: {', '.join(found.files)}")
    raise typer.Exit(found.exit_code)
