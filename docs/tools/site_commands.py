"""The page of commands and options, made from the command line itself by typer's own generator."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from itertools import groupby

__all__ = ["commands_page", "tidied"]

_INTRODUCTION = """\
# Commands and options

As `qcompress COMMAND --help` has them. `qcompress --install-completion` teaches bash, zsh, fish or PowerShell to complete them;
`--show-completion` prints what it would install.
"""
_ITEM = re.compile(r"\* `(?P<name>[^`]+)`: (?P<meaning>.*)")


def commands_page() -> str:
    """Markdown: a section for each command, with a table of its arguments and one of its options."""
    asked = [sys.executable, "-m", "typer", "qcompress.cli.main", "utils", "docs", "--name", "qcompress"]
    made = subprocess.run(asked, check=True, capture_output=True, text=True).stdout
    _, _, rest = made.partition("\n")  # without its title
    return f"{_INTRODUCTION}{tidied(rest)}"


def tidied(made: str) -> str:
    """What typer's generator made, with tables for lists and plain headings; without its list of commands, which is cut short.

    >>> print(tidied("## `qcompress solve`\\n\\n* `--seed <int>`: The run&#x27;s seed.  [default: 0]"))
    ## solve
    <BLANKLINE>
    | | |
    |---|---|
    | `--seed <int>` | The run's seed. [default: 0] |
    <BLANKLINE>
    """
    made = re.sub(r"\*\*Commands\*\*:\n\n(\* `.*\n)+", "", made).replace("**Usage**:\n\n", "")
    lines: list[str] = []
    for is_list, group in groupby(html.unescape(made).splitlines(), key=lambda line: line.startswith("* `")):
        part = list(group)
        lines += _table(part) if is_list else [_plain(line) for line in part]
    return "\n".join(lines) + "\n"


def _plain(line: str) -> str:
    return re.sub(r"^(#+) `qcompress (.*)`$", r"\1 \2", line).removeprefix("$ ")


def _table(items: list[str]) -> list[str]:
    rows = []
    for item in items:
        found = _ITEM.fullmatch(item)
        assert found is not None, f"typer wrote a line that is no item: {item}"
        meaning = " ".join(found["meaning"].split()).replace("|", "\\|").replace("<", "&lt;")
        rows.append(f"| `{found['name']}` | {meaning} |")
    return ["| | |", "|---|---|", *rows]
