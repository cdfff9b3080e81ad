"""`qcompress doctor`."""

from __future__ import annotations

from typing import Annotated

import typer

from qcompress.cli import options, render
from qcompress.errors import BackendError

__all__ = ["doctor"]


def doctor(
    online: Annotated[
        bool, typer.Option("--online", help="Ask D-Wave which solvers the account may use; exit with 5 where that fails.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Show what this installation can do: versions, providers, processor, D-Wave account, and what each backend would need."""
    from qcompress.doctor import diagnose

    found = diagnose(online=online)
    if as_json:
        render.print_json(found.as_dict())
    else:
        render.print_table("", ("", "found"), found.rows(), numeric_from=2)
    if found.unreachable:
        raise typer.Exit(BackendError.exit_code)
