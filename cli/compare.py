"""`qcompress compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qcompress.cli import options, render

__all__ = ["compare"]


def compare(
    networks: Annotated[
        list[Path],
        typer.Argument(metavar="NETWORK...", help="Two or more slim folders or ONNX files; the first is compared with."),
    ],
    data: options.Data = None,
    noise: options.Noise = None,
    max_images: options.MaxImages = None,
    mean: options.Mean = None,
    std: options.Std = None,
    metric: options.MetricName = "auto",
    size: options.AutoSize = None,
    seed: options.Seed = 0,
    page: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write the comparison to FILE, as one page.")
    ] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Compare networks on the same report images: metric of each image, speed in alternation, and where their plans differ."""
    from qcompress import settings as s
    from qcompress.comparing import compare as run

    means, stds = options.parse_normalisation(mean, std)
    settings = s.Settings(
        metric=metric,
        seed=seed,
        data=s.DataOptions(data, noise, max_images, mean=means, std=stds),
        verify=s.VerifyOptions(size=size),
    )
    found = run(networks, settings, observer=render.observer(quiet=quiet))
    if page is not None:
        found.write(page)
    if as_json:
        render.print_json(found.as_dict())
        return
    names = [one.name for one in found.contestants]
    measured = [each.name for each in found.metrics]
    render.print_table("", ("network", *measured, "bytes", "units", "times as fast as the first"), found.rows())
    render.print_table(f"{measured[0]} of the images that lose the most", ("image", *names, "loss"), found.worst())
    if found.differing:
        rows = ((row.name, str(row.total), *("-" if k is None else str(k) for k in row.kept)) for row in found.differing)
        render.print_table("groups that keep other units", ("group", "units", *names), rows)
    if found.widths:
        layers = ((row.layer, *(width or "-" for width in row.widths)) for row in found.widths)
        render.print_table("layers whose weights have other widths", ("layer", *names), layers)
        for one in found.contestants:
            if one.widths:
                render.print_line(f"{one.name}: weights of layers in {one.widths}")
    for one in found.contestants:
        for note in one.found.notes:
            render.print_line(f"{one.name}: {note}")
    if page is not None:
        render.print_line(f"written: {page}")
