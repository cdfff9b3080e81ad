"""Which pictures a report, or several, give; and the folder that they go to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from qcompress import reports as report_files
from qcompress.errors import InputError
from qcompress.files import write_bytes, write_text
from qcompress.markdown import to_markdown
from qcompress.plots.capacity import capacity_search, probes
from qcompress.plots.channels import channels
from qcompress.plots.convergence import climbed, convergence
from qcompress.plots.numbers import check
from qcompress.plots.rows import of_reports
from qcompress.plots.sparsity import against_sparsity, other_images
from qcompress.plots.style import Format, render
from qcompress.plots.surrogate import surrogate, trials
from qcompress.plots.table import CAPTIONS, FOLDER, forget
from qcompress.reports import Report

__all__ = ["Picture", "draw", "draw_files", "illustrate", "write"]


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
        found.append(Picture("sparsity", against_sparsity(rows, to_dense=other_images(rows))))
    return found


def _of_one(report: Report) -> list[Picture]:
    found = []
    if report.units.per_group:
        found.append(Picture("channels", channels(report.units.per_group)))
    if climbed(report):
        found.append(Picture("convergence", convergence([report])))
    if trials(report):
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


def illustrate(report: Report, folder: Path, form: Format = "svg") -> list[Path]:
    """The pictures of `report` into `folder`/plots, in place of those of an earlier run, and report.md with them in it.

    Raises:
        OutputError: something cannot be written.

    """
    paths = write(draw([report]), folder / FOLDER, form)
    forget(folder / FOLDER, keep=paths)
    pictures = [(f"{FOLDER}/{path.name}", CAPTIONS[path.stem]) for path in paths]
    write_text(folder / "report.md", to_markdown(report, pictures))
    return paths


def draw_files(given: Sequence[Path], out: Path | None = None, form: Format = "svg") -> list[Path]:
    """The pictures of report files, or of the slim folders that hold them, into `out`; returns their paths.

    Without `out`, one slim folder is illustrated, the pictures of one report.json go to plots/ beside it, and those that
    compare several to plots/ in the working folder.

    Raises:
        InputError: no report of schema 1, or nothing in it that could be drawn.
        OutputError: something cannot be written.

    """
    files = [path / "report.json" if path.is_dir() else path for path in given]
    reports = [report_files.read(path) for path in files]
    for path, report in zip(files, reports, strict=True):
        check(report, str(path))
    pictures = draw(reports)
    if not pictures:
        raise InputError(
            f"{', '.join(map(str, files))}: nothing to draw", "pictures need prunable groups, or several finished runs"
        )
    if out is None and len(given) == 1 and given[0].is_dir():
        return illustrate(reports[0], given[0], form)
    return write(pictures, out or (files[0].parent if len(files) == 1 else Path()) / FOLDER, form)
