"""`qcompress init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qcompress.cli import config_file, render
from qcompress.cli.config_template import template
from qcompress.cli.option_table import options_of
from qcompress.cli.prune import prune
from qcompress.errors import OutputError
from qcompress.files import write_text

__all__ = ["init"]


def init(
    path: Annotated[Path, typer.Argument(metavar="[FILE]", help="The file to write.", show_default=True)] = Path(
        config_file.NAME
    ),
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Write a config file for `prune --config`: every option with what it does and its default, commented out."""
    if path.exists() and not force:
        raise OutputError(f"{path} is there already", "--force writes over it")
    write_text(path, template(options_of(prune)))
    render.print_line(f"written to {path}; next: qcompress prune CHECKPOINT --config {path}")
