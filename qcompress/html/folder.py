"""The page in a slim folder: written beside the report, and drawn again from it."""

from __future__ import annotations

from pathlib import Path

from qcompress import reports
from qcompress.errors import InputError
from qcompress.files import write_text
from qcompress.html.page import to_html
from qcompress.html.pictures import cut, read
from qcompress.plots.numbers import check
from qcompress.reports import Report

__all__ = ["FILE", "redraw", "write"]

FILE = "report.html"


def write(report: Report, folder: Path, out: Path | None = None) -> Path:
    """The page of `report`, with the crops that lie in `folder`, into that folder or to `out`. Raises OutputError."""
    path = out or folder / FILE
    write_text(path, to_html(report, cut(report, read(report, folder))))
    return path


def redraw(given: Path, out: Path | None = None) -> Path:
    """The page of the slim folder, or of the report.json, at `given`; by default beside it.

    Raises:
        InputError: no report of schema 1, or one that no network has.
        OutputError: the page cannot be written.

    """
    file = given / "report.json" if given.is_dir() else given
    if given.is_dir() and not file.is_file():
        raise InputError(f"{given}: a folder without a report.json", "give a folder that `qcompress prune` wrote")
    report = reports.read(file)
    check(report, str(file))
    return write(report, file.parent, out)
