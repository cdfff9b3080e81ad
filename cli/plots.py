"""`qcompress plots`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from qcompress.cli import options, render

__all__ = ["plots"]


class PictureFormat(StrEnum):
    """What pictures are written as."""

    svg = "svg"
    png = "png"


def plots(
    reports: Annotated[
        list[Path],
        typer.Argument(metavar="REPORT...", help="A report.json, or the slim folder that holds it.", show_default=False),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Folder of the pictures (default: plots/ in the report's folder, or here for several reports)."
        ),
    ] = None,
    form: Annotated[PictureFormat, typer.Option("--format", help="What is written.")] = PictureFormat.svg,
    as_json: options.Json = False,
) -> None:
    """Draw the pictures of a REPORT, or compare several, from report.json alone.

    Given one slim folder and no --out, its report.md is written again, with the pictures.
    """
    from qcompress.plots.requirement import require

    require()
    from qcompress.plots.drawing import draw_files

    written = draw_files(reports, out, form.value)
    if as_json:
        render.print_json({"pictures": [str(path) for path in written]})
    else:
        render.print_line(f"written: {', '.join(map(str, written))}")
