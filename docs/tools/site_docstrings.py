"""Docstrings as Markdown: lists of names with their meanings become lists, examples become code."""

from __future__ import annotations

import inspect
import re

__all__ = ["as_markdown"]

_NAMES = r"(?P<names>[A-Za-z_][\w.]*(?:, [A-Za-z_][\w.]*)*)"
_COLUMNS = re.compile(_NAMES + r" {2,}(?P<meaning>\S.*)")
_COLON = re.compile(_NAMES + r": (?P<meaning>\S.*)")
_SECTION = re.compile(r"(Args|Raises|Returns|Yields):")


def as_markdown(docstring: str | None) -> str:
    """`docstring` as Markdown, without its indentation; "" for None.

    Paragraphs whose lines are ``name   meaning``, going on with deeper lines, and the ``Args:`` and ``Raises:`` sections become
    lists. Examples after ``>>>`` become code, as indented lines are already.

    >>> print(as_markdown("A value.\\n\\nside   in pixels\\ncount  of them,\\n       at least 1"))
    A value.
    <BLANKLINE>
    - `side`: in pixels
    - `count`: of them, at least 1
    """
    blocks = [block for block in re.split(r"\n\s*\n", inspect.cleandoc(docstring or "")) if block.strip()]
    return "\n\n".join(_block(block) for block in blocks)


def _block(block: str) -> str:
    lines = block.splitlines()
    if block.lstrip().startswith(">>>"):
        return "\n".join(["```pycon", *lines, "```"])
    if _SECTION.fullmatch(lines[0]) and len(lines) > 1:
        listed = _entries(inspect.cleandoc("\n" + "\n".join(lines[1:])).splitlines(), _COLON)
        if listed:
            return f"**{lines[0].removesuffix(':')}**\n\n{listed}"
    return _entries(lines, _COLUMNS) or block


def _entries(lines: list[str], entry: re.Pattern[str]) -> str:
    """The lines as a list of what `entry` matches and what goes on below it; "" where they are none."""
    items: list[list[str]] = []
    for line in lines:
        found = entry.fullmatch(line)
        if found is not None:
            names = ", ".join(f"`{name}`" for name in found["names"].split(", "))
            items.append([f"- {names}: {found['meaning']}"])
        elif items and line.startswith("  "):
            items[-1].append(line.strip())
        else:
            return ""
    return "\n".join(" ".join(re.sub(r" {2,}", " ", part) for part in item) for item in items)
