"""`qcompress report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qcompress.cli import options, render

__all__ = ["report"]


def report(
    given: Annotated[
        Path, typer.Argument(metavar="FOLDER_OR_REPORT", help="A slim folder, or its report.json.", show_default=False)
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The page to write (default: report.html beside the report).")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Draw report.html again, from report.json and the crops beside it; it needs no network and no other file."""
    from qcompress.html import redraw

    path = redraw(given, out)
    if as_json:
        render.print_json({"page": str(path)})
    else:
        render.print_line(f"written: {path}")
