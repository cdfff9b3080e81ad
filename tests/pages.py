"""What is in the pages of docs/ to be done: their code and their commands."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Block", "add_first", "add_to_table", "blocks", "commands", "indented_commands"]

_FENCED = re.compile(r'^```(?P<language>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<code>.*?)^```$', re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """Fenced code: what it is written in, the title above it ("" for none), and itself."""

    language: str
    title: str
    code: str


def blocks(page: Path) -> list[Block]:
    """The fenced code of `page`, in order."""
    text = page.read_text(encoding="utf-8")
    return [Block(found["language"], found["title"] or "", found["code"]) for found in _FENCED.finditer(text)]


def commands(code: str) -> Iterator[list[str]]:
    """The arguments of every `qcompress` in lines of a shell."""
    for line in code.splitlines():
        if line.strip().startswith("qcompress "):
            yield shlex.split(line, comments=True)[1:]


def indented_commands(page: Path) -> list[list[str]]:
    """The same of the indented code of `page`."""
    text = _FENCED.sub("", page.read_text(encoding="utf-8"))
    lines = [line for line in text.splitlines() if line.startswith("    ")]
    return list(commands("\n".join(lines)))


def add_first(file: Path, lines: str) -> None:
    """Puts import lines behind the last import at the top of `file`."""
    text = file.read_text(encoding="utf-8")
    imports = [node for node in ast.parse(text).body if isinstance(node, ast.Import | ast.ImportFrom)]
    _insert(file, text, imports[-1].end_lineno or 0, lines)


def add_to_table(file: Path, table: str, entry: str) -> None:
    """Puts `entry` behind the last one of the dict or tuple that `table` of `file` is made from."""
    text = file.read_text(encoding="utf-8")
    literal = next(
        part
        for node in ast.parse(text).body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == table and node.value
        for part in ast.walk(node.value)
        if isinstance(part, ast.Dict | ast.Tuple)
    )
    last = (literal.values if isinstance(literal, ast.Dict) else literal.elts)[-1]
    line, column = last.end_lineno or 0, last.end_col_offset or 0
    lines = text.splitlines(keepends=True)
    lines[line - 1] = f"{lines[line - 1][:column]},\n{entry}{lines[line - 1][column:].lstrip(',')}"
    file.write_text("".join(lines), encoding="utf-8")


def _insert(file: Path, text: str, after: int, added: str) -> None:
    lines = text.splitlines(keepends=True)
    file.write_text("".join([*lines[:after], added, *lines[after:]]), encoding="utf-8")
