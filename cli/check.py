"""`qcompress check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qcompress.cli import options, render

__all__ = ["check"]


def check(
    report: Annotated[
        Path, typer.Argument(metavar="FOLDER_OR_REPORT", help="A slim folder, or its report.json.", show_default=False)
    ],
    baseline: Annotated[
        Path | None, typer.Option(help="What to compare with: the folder or report.json of another state, such as main's.")
    ] = None,
    max_drop: options.MaxDrop = None,
    min_speedup: options.MinSpeedup = None,
    max_size: options.MaxSize = None,
    undecided: options.UndecidedOption = options.Undecided.report,
    metric_tolerance: Annotated[
        float | None,
        typer.Option(
            help="How much worse than the baseline the metric may be (default: 0.05 dB, 0.1 points, 0.001 of others)."
        ),
    ] = None,
    size_tolerance: Annotated[float, typer.Option(help="Per cent that the file may be larger than the baseline's.")] = 1.0,
    speed_tolerance: Annotated[float, typer.Option(help="Per cent that the speedup may be below the baseline's.")] = 5.0,
    summary: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Add the outcome to FILE, as Markdown ($GITHUB_STEP_SUMMARY).")
    ] = None,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the outcome to FILE, as JUnit XML.")] = None,
    as_json: options.Json = False,
) -> None:
    """Hold a finished run against limits, and against the report of another state; nothing is measured again.

    Exits with 0 where everything passes, 4 where something fails, 6 where nothing fails but something is undecided.
    """
    from qcompress.gate import Tolerances, writing
    from qcompress.gate import check as run

    checked = run(
        report,
        options.limits(max_drop, min_speedup, max_size, undecided),
        baseline,
        Tolerances(metric_tolerance, size_tolerance, speed_tolerance),
    )
    if summary is not None:
        writing.add_summary(checked, summary)
    if junit is not None:
        writing.write_junit(checked, junit)
    if as_json:
        render.print_json(checked.as_dict())
    else:
        render.print_line(f"{checked.gate.outcome}: {checked.headline}")
        findings = ((found.outcome, found.name, found.text) for found in checked.gate.findings)
        render.print_table("", ("", "condition", ""), findings, numeric_from=3)
        if checked.rows:
            render.print_table("", ("", "baseline", "now"), checked.rows)
    raise typer.Exit(checked.gate.exit_code)
