"""What a person sees: progress and errors on stderr, tables on stdout."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from qcompress.errors import QCompressError
from qcompress.progress import SILENT, Advance, Observer
from qcompress.visible import visible, visible_json

if TYPE_CHECKING:
    from qcompress.pipeline import Result

__all__ = [
    "Terminal",
    "arguments",
    "observer",
    "print_json",
    "print_line",
    "print_table",
    "print_text",
    "show_error",
    "show_report",
]

_LONGEST = 40  # characters of one argument in a title
_SILENCE = 30.0  # seconds after which a stage off a terminal, a log, says where it stands
_REST = 74  # columns that a stage needs beside its bar: name, times, and a note such as the refinement's


def show_error(error: QCompressError, *, as_json: bool, kind: str | None = None, code: int | None = None) -> None:
    """One line and a hint on stderr; with `as_json` the same as JSON on stdout."""
    if as_json:
        body = {
            "type": kind or type(error).__name__,
            "message": error.message,
            "hint": error.hint,
            "exit_code": error.exit_code if code is None else code,
        }
        print_json({"status": "error", "error": body})
        return
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(f"[bold red]error:[/] {_shown(error.message)}")
    if error.hint:
        console.print(f"[dim]hint:[/] {_shown(error.hint)}")


def print_json(value: object) -> None:
    """`value` as JSON on stdout."""
    sys.stdout.write(visible_json(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)) + "\n")


def print_text(text: str) -> None:
    """JSON `text` on stdout, as it was written."""
    sys.stdout.write(visible_json(text))


def _shown(text: str) -> str:
    """`text` as rich shows it literally, with nothing in it that a terminal would obey."""
    return escape(visible(text))


def print_table(title: str, columns: Iterable[str], rows: Iterable[Iterable[str]], numeric_from: int = 1) -> None:
    """A table on stdout; columns from `numeric_from` on are right-aligned."""
    table = Table(title=_shown(title), title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number >= numeric_from else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_shown(cell) for cell in row))
    Console(highlight=False).print(table)


def arguments(values: Mapping[str, object]) -> str:
    """An architecture's arguments for a title; collections that would fill lines are counted (--json has them whole).

    >>> arguments({"width": 8, "shapes": {str(number): [64, 64, 3, 3] for number in range(40)}})
    'width=8, shapes=(40 entries)'
    """
    return ", ".join(f"{name}={_brief(value)}" for name, value in values.items())


def _brief(value: object) -> str:
    text = str(value)
    if len(text) <= _LONGEST:
        return text
    return f"({len(value)} entries)" if isinstance(value, Mapping | list | tuple) else f"{text[:_LONGEST]}..."


def observer(*, quiet: bool) -> Observer:
    """What watches a run: a terminal, or nobody."""
    return SILENT if quiet else Terminal()


class Terminal:
    """Draws each stage on stderr: a bar on a terminal; elsewhere a line when it ends, and some on the way of a long one."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)

    def say(self, text: str) -> None:
        """One line on stderr."""
        self._console.print(_shown(text), soft_wrap=True)

    @contextmanager
    def stage(self, name: str, total: float | None = None) -> Iterator[Advance]:
        """A stage: a live bar while it runs, one line with its duration and last note afterwards."""
        started, last = time.monotonic(), ""
        shown, terminal = started, self._console.is_terminal
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=max(4, min(24, self._console.width - _REST))),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=self._console, transient=True, disable=not terminal) as progress:
            task = progress.add_task(name, total=total, note="")

            def advance(done: float, note: str = "") -> None:
                nonlocal last, shown
                last = note or last
                progress.update(task, completed=done, note=_shown(last))
                if not terminal and time.monotonic() - shown >= _SILENCE:
                    shown = time.monotonic()
                    share = f"{100 * done / total:.0f} %" if total else ""
                    self._line(name, shown - started, share, last)

            yield advance
        self._line(name, time.monotonic() - started, last)

    def _line(self, name: str, seconds: float, *parts: str) -> None:
        text = "".join(f"  {part}" for part in parts if part)
        self._console.print(f"  {name:<22}{seconds:6.1f} s{_shown(text)}", soft_wrap=True)


def print_line(text: str) -> None:
    """One line on stdout."""
    Console(highlight=False).print(_shown(text), soft_wrap=True)


def show_report(result: Result, *, as_json: bool) -> None:
    """The outcome of a run on stdout: the whole report as JSON, or the verdict, a table and where the files are."""
    from qcompress.markdown import headline, summary_rows
    from qcompress.reports import to_json

    report = result.report
    if as_json:
        print_text(to_json(report))
        return
    print_line(headline(report))
    print_table("", ("", "dense", "slim", "change"), summary_rows(report))
    word = "undecided" if report.status == "undecided" else "missed"
    for note in (*report.notes, *(f"{word}: {reason}" for reason in report.reasons)):
        print_line(note)
    files = [*report.files, "report.json", "report.md", "report.html", *(f"plots/{path.name}" for path in result.pictures)]
    print_line(f"written to {result.folder}: {', '.join(files)}")
