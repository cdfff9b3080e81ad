"""`qcompress solve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qcompress.cli import options, render

__all__ = ["solve"]


def solve(
    problem: Annotated[Path, typer.Argument(help="A problem.bqm that `qcompress formulate` wrote.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the selection goes.")] = Path("selection.json"),
    backend: options.Backend = "profile",
    backend_option: options.BackendOption = None,
    solver: options.SolverName = None,
    max_qpu_seconds: options.MaxQpuSeconds = None,
    seed: options.Seed = 0,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Solve PROBLEM at the budget it was formulated for; `qcompress prune CHECKPOINT --selection` takes the answer."""
    from qcompress.settings import SearchOptions
    from qcompress.solving import solve as run

    chosen = SearchOptions(
        backend=backend, backend_options=options.parse_backend_options(backend_option, solver, max_qpu_seconds)
    )
    found = run(problem, chosen, seed=seed, out=out, observer=render.observer(quiet=quiet))
    if as_json:
        render.print_json(found.model_dump(mode="json", by_alias=True))
        return
    pruned = sum(len(group.pruned) for group in found.groups.values())
    proven = f", bound {found.certificate.bound:.4f}" if found.certificate else ""
    render.print_line(
        f"{pruned} of {sum(group.size for group in found.groups.values())} units, energy {found.energy:.4f} "
        f"(greedy {found.greedy_energy:.4f}{proven})"
    )
    if found.qpu is not None:
        here = found.qpu.classical_energy
        render.print_line(
            f"{found.qpu.solver}: {found.qpu.submissions} submissions, {found.qpu.access_s:.3f} s of machine time; "
            f"the classical solver here reaches {here:.4f}"
        )
        if not found.qpu.submissions:
            render.print_line("nothing was submitted: without couplings, or without units to go, sorting is exact")
    render.print_line(f"written to {out}; next: qcompress prune CHECKPOINT --selection {out}")
    render.print_line(f"where CHECKPOINT is {found.checkpoint.file}, sha256 {found.checkpoint.sha256[:12]}")
