"""Formulas of the pages, from LaTeX between dollar signs to MathML, which browsers show without scripts or fonts of ours."""

from __future__ import annotations

import re
from collections.abc import Callable

__all__ = ["with_formulas"]

_DISPLAYED = re.compile(r"^\$\$\n(.+?)\n\$\$$", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"(?<![\w$\\])\$(?=\S)([^$\n]+?)(?<=\S)\$(?![\w$])")
_CODE = re.compile(r"(^```.*?^```$|^(?: {4}|\t)[^\n]*$|`[^`\n]+`)", re.DOTALL | re.MULTILINE)


def with_formulas(page: str, convert: Callable[[str, str], str]) -> str:
    """`page` (Markdown) with ``$a$`` and lines of ``$$`` around a formula replaced; code is left alone.

    `convert` takes LaTeX and "inline" or "block" and returns MathML (`latex2mathml.converter.convert`).

    >>> with_formulas("Of $x$ at `$HOME`", lambda latex, display: f"<{latex}/>")
    'Of <span class="formula"><x/></span> at `$HOME`'
    """

    def displayed(found: re.Match[str]) -> str:
        return f'<div class="formula">{_one_line(convert(found[1], "block"))}</div>'

    def inline(found: re.Match[str]) -> str:
        return f'<span class="formula">{_one_line(convert(found[1], "inline"))}</span>'

    parts = _CODE.split(page)
    parts[::2] = [_INLINE.sub(inline, _DISPLAYED.sub(displayed, part)) for part in parts[::2]]
    return "".join(parts)


def _one_line(mathml: str) -> str:
    """Without line breaks, which would end a table's row, and without signs that Markdown would take for its own."""
    for sign, code in (("*", "&#42;"), ("_", "&#95;"), ("|", "&#124;"), ("`", "&#96;"), ("[", "&#91;")):
        mathml = mathml.replace(sign, code)
    return " ".join(mathml.split())
