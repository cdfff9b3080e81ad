"""Text from outside, made safe to show: what would move the cursor, change colours or turn the reading direction is escaped."""

from __future__ import annotations

import re

__all__ = ["visible", "visible_json"]


def visible(text: str) -> str:
    r"""`text` with control, bidirectional and other invisible characters as their escapes, line breaks among them.

    >>> print(visible("a\x1b[31m\u202eb\n"))
    a\x1b[31m\u202eb\n
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def visible_json(text: str) -> str:
    r"""JSON `text` that says the same in characters that can be shown and encoded; its own line breaks stay.

    >>> print(visible_json('{"a\u202e": "\ud800"}'))
    {"a\u202e": "\ud800"}
    """
    return re.sub(r"[^\n -~]", lambda found: found[0] if found[0].isprintable() else _units(found[0]), text)


def _units(char: str) -> str:
    data = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{data[place]:02x}{data[place + 1]:02x}" for place in range(0, len(data), 2))
