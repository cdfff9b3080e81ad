"""Which pictures a report, or several, give; and the folder that they go to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from qcompress.files import write_bytes
from qcompress.plots.capacity import capacity_search, probes
from qcompress.plots.channels import channels
from qcompress.plots.convergence import climbed, convergence
from qcompress.plots.rows import of_reports
from qcompress.plots.sparsity import against_sparsity
from qcompress.plots.style import Format, render
from qcompress.plots.surrogate import losses, surrogate
from qcompress.reports import Report

__all__ = ["Picture", "draw", "write"]


@dataclass(frozen=True, eq=False)
class Picture:
    """A figure under its name in `qcompress.plots.table.CAPTIONS`."""

    name: str
    figure: Figure


def draw(reports: Sequence[Report]) -> list[Picture]:
    """What the reports have the numbers for, in the order of the table: of one report its run, of several how they compare."""
    if len(reports) == 1:
        return _of_one(reports[0])
    found = []
    if any(climbed(report) for report in reports):
        found.append(Picture("convergence", convergence(reports)))
    rows = of_reports(reports)
    if rows:
        found.append(Picture("sparsity", against_sparsity(rows)))
    return found


def _of_one(report: Report) -> list[Picture]:
    found = []
    if report.units.per_group:
        found.append(Picture("channels", channels(report.units.per_group)))
    if climbed(report):
        found.append(Picture("convergence", convergence([report])))
    if losses(report):
        found.append(Picture("surrogate", surrogate(report)))
    if probes(report):
        found.append(Picture("capacity", capacity_search(report)))
    return found


def write(pictures: Sequence[Picture], folder: Path, form: Format = "svg") -> list[Path]:
    """The files, each whole or not there. Raises OutputError where they cannot be written."""
    paths = [folder / f"{picture.name}.{form}" for picture in pictures]
    for path, picture in zip(paths, pictures, strict=True):
        write_bytes(path, render(picture.figure, form))
    return paths
