"""`qcompress inspect`."""

from __future__ import annotations

from typing import Annotated

import typer

from qcompress.cli import options, render

__all__ = ["inspect"]


def inspect(
    checkpoint: options.Checkpoint,
    size: options.Size = 256,
    ignore: options.Ignore = None,
    align: options.Align = "auto",
    floor: options.Floor = 1,
    keep: options.Keep = None,
    keep_at_most: options.KeepAtMost = None,
    multiple_of: options.MultipleOf = None,
    arch: options.Arch = None,
    arch_args: options.ArchArgs = None,
    trust_pickle: options.TrustPickle = False,
    compare: Annotated[
        bool, typer.Option("--compare", help="Ask Torch-Pruning's dependency graph, too, and say where it differs.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Show what CHECKPOINT is and what can be pruned of it: coupled groups, units, costs, and what is kept whole and why."""
    from qcompress import inspection
    from qcompress.settings import CheckpointOptions, SearchOptions

    found = inspection.inspect(
        checkpoint,
        CheckpointOptions(arch, options.parse_arch_args(arch_args), trust_pickle),
        size=size,
        search=SearchOptions(
            align=options.parse_align(align),
            ignore=tuple(ignore or ()),
            floor=floor,
            keep=options.parse_shares("--keep", keep),
            keep_at_most=options.parse_shares("--keep-at-most", keep_at_most),
            multiple_of=options.parse_multiples("--multiple-of", multiple_of),
        ),
        compare=compare,
    )
    if as_json:
        render.print_json(found.as_dict())
        return
    title = f"{found.file}: {found.architecture} {render.arguments(found.arguments)}".rstrip()
    columns = ("coupled group", "units", "may keep", "layers", "params a unit frees", "MACs a unit frees")
    render.print_table(title, (*columns, "Torch-Pruning") if compare else columns, found.rows())
    for layer in found.kept_whole:
        render.print_line(f"kept whole: {layer.layer}: {layer.reason}")
    render.print_line(
        f"{found.units} units in {len(found.groups)} groups, {found.params:,} parameters, "
        f"{found.macs / 1e6:,.1f} million MACs at {size}x{size}"
    )
